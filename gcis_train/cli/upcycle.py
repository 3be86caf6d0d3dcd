"""Implement the command `gcis-train upcycle`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from gcis_runtime.system.console import echo, out_option

ANY = click.Path(path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--checkpoint", "start", type=ANY, required=True, help="Static checkpoint or run folder.")
@click.option(
    "--spread",
    type=click.Choice(["last", "all"]),
    default="last",
    show_default=True,
    help="Positions at which prompts have different blocks: the last ones, as in the static network, or all "
    "seven.",
)
@click.option(
    "--prompt", "prompts", multiple=True, help="Further prompt, to be trained later; repeat for several."
)
@click.option("--clip-weights", help="CLIP weights for further prompts.")
@click.option(
    "--router-gap",
    type=click.FloatRange(min=0, min_open=True),
    default=9.0,
    show_default=True,
    help="Lead of the block of each prompt, in router logits.",
)
@out_option(type=FOLDER, required=True, help="Checkpoint folder to write.")
def upcycle(
    start: Path,
    spread: Literal["last", "all"],
    prompts: tuple[str, ...],
    clip_weights: str | None,
    router_gap: float,
    out: Path,
) -> None:
    """Copy a static network into a routed one, with the same outputs.

    With --spread all, the blocks of a prompt can then be trained apart from those of other prompts, for
    example with `gcis-train finetune --stage pathways`; each prompt then needs its own pass through the
    decoder.
    """
    import torch

    from gcis_train.routing.decisions import route, routing_table
    from gcis_train.training.warmstart import upcycled
    from gcis_train.weights import checkpoint

    config, net = upcycled(
        checkpoint.load(start),
        prompts=prompts,
        clip_weights=clip_weights,
        router_gap=router_gap,
        spread=spread,
    )
    checkpoint.save(out, config, net.state_dict())
    echo(routing_table([route(net, e.prompt, torch.tensor(e.embedding)) for e in config.prompts]))
    echo(f"written to {out}")
