"""A training's start from other weights: ours or foreign, an encoder, a static network or a routed one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gcis_runtime.errors import CheckpointError
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.weights import checkpoint
from gcis_train.weights.foreign import read_foreign
from gcis_train.weights.upcycle import fit_routers

REPORT_FILE = "pretrained.json"
_ROUTERS = "routers."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Weights to start from.

    Attributes:
        name: File or folder.
        sha256: Hash of the weights file.
        kind: `routed`, `static` or `encoder`; of the latter no decoder block is used.
        described: The kind in words: a foreign file's, such as `swin-unetr`.
        network: Sizes of the network that they belong to.
        weights: Tensors by our names.
        pathways: Prompt and pathway of each channel of a static network.
        unused: What a foreign file has beyond that, with the reason.
    """

    name: str
    sha256: str
    kind: str
    described: str
    network: NetworkConfig
    weights: dict[str, Tensor]
    pathways: tuple[tuple[str | None, Pathway], ...]
    unused: dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What became of every tensor.

    Attributes:
        source: File or folder that the weights came from.
        sha256: Hash of the weights file.
        kind: What it holds.
        used: Tensors of the network and the source's tensor that each was set to.
        copied: Those of `used` that are copies into another pathway (sparse upcycling).
        unused: Tensors of the source that were not used, with the reason.
        missing: Tensors of the network that the source has nothing for; they start at random.
        fitted: Prompts whose pathways the routers were fitted to.
    """

    source: str
    sha256: str
    kind: str
    used: dict[str, str]
    copied: tuple[str, ...]
    unused: dict[str, str]
    missing: tuple[str, ...]
    fitted: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """Return it for people."""
        total = len(self.used) + len(self.missing)
        lines = [f"initialised {len(self.used)} of {total} tensors from {self.source} ({self.kind})"]
        if self.copied:
            lines.append(f"  {len(self.copied)} of them are copies of a block into other pathways")
        if self.fitted:
            lines.append(f"  routers fitted to the pathways of {', '.join(self.fitted)}")
        if self.missing:
            lines.append(f"  {len(self.missing)} start at random: {_some(self.missing)}")
        if self.unused:
            lines.append(f"  {len(self.unused)} of the source were not used: {_some(tuple(self.unused))}")
        return lines


def read_source(path: Path) -> Source:
    """Read weights to start from: a published or SwinUNETR file, or one of our checkpoints or run folders.

    Raises:
        CheckpointError: Neither.
    """
    if path.is_file():
        found = read_foreign(path)
        config, weights, unused = found.config, found.weights, found.unused
        sha256, name = str(config.provenance["source_sha256"]), path.name
        described: str = found.kind
    else:
        loaded = checkpoint.load(path)
        config, weights, unused = loaded.config, loaded.weights, {}
        sha256, name, described = loaded.sha256, str(loaded.folder), config.kind
    prompts: list[str | None] = [entry.prompt for entry in config.prompts]
    if config.kind != "static" or len(prompts) != len(config.path_selections):
        prompts = [None] * len(config.path_selections)
    paths = [Pathway(tuple(n - 1 for n in one_based)) for one_based in config.path_selections]
    return Source(
        name=name,
        sha256=sha256,
        kind=config.kind,
        described=described,
        network=config.network,
        weights=weights,
        pathways=tuple(zip(prompts, paths, strict=True)),
        unused=unused,
    )


def initialise(
    net: GcisNet | StaticGcisNet,
    source: Source,
    *,
    prompts: Sequence[str],
    embeddings: Tensor,
    router_margin: float,
) -> Report:
    """Set a network's tensors to the source's, where it has one of that name and shape.

    A decoder block that the source lacks starts as a copy of one that it has at that position, in turn, so
    that a static network fills every pathway. If it knows prompts of this run, the routers are fitted to send
    each of them along its own pathway; otherwise they stay random, and every pathway gives the same answer.

    Args:
        net: The network to set.
        source: The weights.
        prompts: Prompts of this run.
        embeddings: (P, text_dim) of these prompts.
        router_margin: Lead of a fitted prompt's block, in router logits.

    Raises:
        CheckpointError: The encoder does not fit, or a pathway of the source does not exist here.
        PromptError: The embeddings do not tell the prompts apart.
    """
    state = net.state_dict()
    used, reasons = _match(state, source)
    if source.network.feature_size != net.config.feature_size or not any(
        # Position bias tables have one shape at every feature size: sharing a few tensors is not enough.
        n.startswith("encoder.")
        for n in used
    ):
        raise CheckpointError(
            f"{source.name} does not fit this network's encoder",
            received=f"feature size {source.network.feature_size}",
            expected=f"feature size {net.config.feature_size}",
            fix="Set --feature-size to that of the checkpoint.",
        )
    net.load_state_dict({**state, **{n: source.weights[o] for n, o in used.items()}})
    fitted = _fit(net, source, prompts, embeddings, router_margin) if isinstance(net, GcisNet) else ()
    taken = set(used.values())
    unused = {n: reasons.get(n, "no counterpart") for n in source.weights if n not in taken}
    return Report(
        source=source.name,
        sha256=source.sha256,
        kind=source.described,
        used=used,
        copied=tuple(n for n, o in used.items() if n != o),
        unused={**source.unused, **unused},
        missing=tuple(n for n in state if n not in used and not (fitted and n.startswith(_ROUTERS))),
        fitted=fitted,
    )


def _match(state: dict[str, Tensor], source: Source) -> tuple[dict[str, str], dict[str, str]]:
    """Return the source's tensor for each of ours, and why others of the same name were not used."""
    blocks: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for name in source.weights:
        if (place := _block(name)) is not None and source.kind == "encoder":
            # Its decoder reads other channels: what fits is half a block.
            reasons[name] = "a block of another decoder"
        elif place is not None:
            indices = blocks.setdefault(place[0], [])
            indices += [place[1]] if place[1] not in indices else []
    used: dict[str, str] = {}
    for name, tensor in state.items():
        candidates = [] if name in reasons else [name]
        if (place := _block(name)) is not None and (known := sorted(blocks.get(place[0], []), key=int)):
            candidates.append(f"{place[0]}.{known[int(place[1]) % len(known)]}.{place[2]}")
        for candidate in candidates:
            theirs = source.weights.get(candidate)
            if theirs is not None and theirs.shape == tensor.shape:
                used[name] = candidate
                break
            if theirs is not None:
                reasons[candidate] = f"shape {tuple(theirs.shape)}, ours {tuple(tensor.shape)}"
    return used, reasons


def _block(name: str) -> tuple[str, str, str] | None:
    """Split `decoder.positions.P.blocks.I.rest` before and after the block's index."""
    parts = name.split(".")
    if len(parts) < 6 or parts[:2] != ["decoder", "positions"] or parts[3] != "blocks":
        return None
    return ".".join(parts[:4]), parts[4], ".".join(parts[5:])


def _fit(
    net: GcisNet, source: Source, prompts: Sequence[str], embeddings: Tensor, margin: float
) -> tuple[str, ...]:
    """Fit the routers to the pathways of the prompts that a static source shares with this run."""
    pathways = {prompt: pathway for prompt, pathway in source.pathways if prompt in prompts}
    if len(pathways) < 2:
        return ()
    wanted = max(max(p.choices) for p in pathways.values()) + 1
    if wanted > net.config.pathways:
        raise CheckpointError(
            f"{source.name} uses more pathways than this network has",
            received=f"{wanted} pathways",
            expected=f"at most {net.config.pathways}",
            fix="Raise --pathways.",
        )
    shared = [i for i, prompt in enumerate(prompts) if prompt in pathways]
    fit_routers(net, embeddings[shared], [pathways[prompts[i]] for i in shared], margin=margin)
    return tuple(prompts[i] for i in shared)


def _some(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:6])}{' …' if len(names) > 6 else ''}"
