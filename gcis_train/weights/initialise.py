"""Initialise a network from other weights: a checkpoint or a foreign file, of any kind of network."""

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
from gcis_train.weights.checkpoint import CheckpointKind
from gcis_train.weights.foreign import read_foreign
from gcis_train.weights.text_towers import TextTower, same_tower
from gcis_train.weights.upcycle import fit_routers

REPORT_FILE = "pretrained.json"
_ROUTERS = "routers."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Weights to initialise a network from.

    Attributes:
        name: File or folder.
        sha256: SHA-256 of the weights file.
        kind: `routed`, `static` or `encoder`; decoder blocks of the latter are not used.
        described: Kind for the report; for a foreign file its format, such as `swin-unetr`.
        network: Sizes of the network that the weights belong to.
        weights: Tensors by parameter name.
        pathways: Prompt and pathway of each channel of a static network.
        text: Text tower of the routers.
        unused: Tensors of a foreign file that have no counterpart, with the reason.
        notes: Notes for the user on the checkpoint.
    """

    name: str
    sha256: str
    kind: CheckpointKind
    described: str
    network: NetworkConfig
    weights: dict[str, Tensor]
    pathways: tuple[tuple[str | None, Pathway], ...]
    text: TextTower
    unused: dict[str, str]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Report on every tensor of the network and of the source.

    Attributes:
        source: File or folder of the weights.
        sha256: SHA-256 of the weights file.
        kind: Kind of the weights.
        used: Name of the source tensor of each initialised tensor of the network.
        copied: Keys of `used` that are copies into another pathway (sparse upcycling).
        unused: Tensors of the source that were not used, with the reason.
        missing: Tensors of the network without a counterpart; they keep their random initialisation.
        fitted: Prompts to whose pathways the routers were fitted.
        notes: Notes for the user on the source and its routers.
    """

    source: str
    sha256: str
    kind: str
    used: dict[str, str]
    copied: tuple[str, ...]
    unused: dict[str, str]
    missing: tuple[str, ...]
    fitted: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return builtin values for JSON."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """Return the lines of a readable summary."""
        total = len(self.used) + len(self.missing)
        lines = [f"initialised {len(self.used)} of {total} tensors from {self.source} ({self.kind})"]
        if self.copied:
            lines.append(f"  {len(self.copied)} of them are copies of blocks from another pathway")
        if self.fitted:
            lines.append(f"  routers fitted to the pathways of {', '.join(self.fitted)}")
        if self.missing:
            lines.append(f"  {len(self.missing)} keep their random initialisation: {_some(self.missing)}")
        if self.unused:
            lines.append(
                f"  {len(self.unused)} tensors of the source were not used: {_some(tuple(self.unused))}"
            )
        return lines + [f"  {note}" for note in self.notes]


def read_source(path: Path) -> Source:
    """Read weights from a published gCIS or SwinUNETR file, a checkpoint folder or a run folder.

    Raises:
        CheckpointError: The path is none of these, or cannot be read.
    """
    if path.is_file():
        found = read_foreign(path)
        config, weights, unused = found.config, found.weights, found.unused
        notes: tuple[str, ...] = ()
        text_weights = config.text_weights
        sha256, name = str(config.provenance["source_sha256"]), path.name
        described: str = found.kind
    else:
        loaded = checkpoint.load(path)
        config, weights, unused, notes = loaded.config, loaded.weights, {}, loaded.notes
        text_weights = loaded.text_weights
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
        text=TextTower(model=config.text_model, weights=text_weights, prompts=config.prompts),
        unused=unused,
        notes=notes,
    )


def initialise(
    net: GcisNet | StaticGcisNet,
    source: Source,
    *,
    prompts: Sequence[str],
    embeddings: Tensor,
    text: TextTower,
    router_gap: float,
) -> Report:
    """Set the tensors of a network to those of the source with the same name and shape.

    A decoder block that the source lacks becomes a copy of one of the source's blocks at that position, in
    turn, so that a static network fills every pathway. If a static source shares at least two prompts with
    this run, the routers are fitted to its pathways; otherwise they stay random, and every pathway has the
    same output. The routers of a routed source also stay random if they were trained with the embeddings of
    another text tower, which mean something else.

    Args:
        net: Network to initialise, modified in place.
        source: The weights.
        prompts: Prompts of this run.
        embeddings: (P, text_dim) embeddings of these prompts.
        text: Text tower of these embeddings.
        router_gap: Difference between the router logits of the assigned block and every other block.

    Raises:
        CheckpointError: The encoder does not fit or was trained with another patch merging, or the network
            lacks a pathway of the source.
        PromptError: The embeddings are not linearly independent.
    """
    _check_merging(net.config, source)
    state = net.state_dict()
    reasons = _foreign_routers(source, text)
    used = _match(state, source, reasons)
    if source.network.feature_size != net.config.feature_size or not any(
        # Position bias tables have the same shape at every feature size, so a few matches are not enough.
        n.startswith("encoder.")
        for n in used
    ):
        raise CheckpointError(
            f"{source.name} does not fit the encoder of this network",
            received=f"feature size {source.network.feature_size}",
            expected=f"feature size {net.config.feature_size}",
            fix="Set --feature-size to that of the checkpoint.",
        )
    net.load_state_dict({**state, **{n: source.weights[o] for n, o in used.items()}})
    fitted = _fit(net, source, prompts, embeddings, router_gap) if isinstance(net, GcisNet) else ()
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
        notes=(*source.notes, *dict.fromkeys(reasons[n] for n in reasons if n.startswith(_ROUTERS))),
    )


def _foreign_routers(source: Source, text: TextTower) -> dict[str, str]:
    """Return the router tensors of a source whose text tower is another one, with the reason."""
    if same_tower(source.text, text):
        return {}
    reason = (
        f"routers for the text weights {source.text.described()} cannot use the embeddings of this run, "
        f"{text.described()}"
    )
    return {name: reason for name in source.weights if name.startswith(_ROUTERS)}


def _check_merging(config: NetworkConfig, source: Source) -> None:
    """Raise an error if the source was trained with another patch merging than the network has."""
    if source.network.merging != config.merging:
        raise CheckpointError(
            f"{source.name} was trained with another patch merging, whose weights mean other neighbours",
            received=source.network.merging,
            expected=config.merging,
            fix=f"Set --merging {source.network.merging}.",
        )


def _match(state: dict[str, Tensor], source: Source, reasons: dict[str, str]) -> dict[str, str]:
    """Return the name of the source tensor per tensor of `state`.

    Tensors that have a reason in `reasons` are not used; reasons for further ones are added.
    """
    blocks: dict[str, list[str]] = {}
    for name in source.weights:
        if (place := _block(name)) is not None and source.kind == "encoder":
            # The decoder has other input channels, so only half of a block would fit.
            reasons[name] = "block of another decoder"
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
                reasons[candidate] = f"shape {tuple(theirs.shape)}, expected {tuple(tensor.shape)}"
    return used


def _block(name: str) -> tuple[str, str, str] | None:
    """Return the parts before, at and after `I` in `decoder.positions.P.blocks.I.rest`, or None."""
    parts = name.split(".")
    if len(parts) < 6 or parts[:2] != ["decoder", "positions"] or parts[3] != "blocks":
        return None
    return ".".join(parts[:4]), parts[4], ".".join(parts[5:])


def _fit(
    net: GcisNet, source: Source, prompts: Sequence[str], embeddings: Tensor, gap: float
) -> tuple[str, ...]:
    """Fit the routers to the pathways of prompts shared with a static source; return these prompts."""
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
    fit_routers(net, embeddings[shared], [pathways[prompts[i]] for i in shared], gap=gap)
    return tuple(prompts[i] for i in shared)


def _some(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:6])}{' …' if len(names) > 6 else ''}"
