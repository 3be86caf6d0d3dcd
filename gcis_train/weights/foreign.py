"""Read foreign checkpoints: published gCIS and SwinUNETR weights.

Nothing in them is executed (pickles.py). Published weights were trained with the patch merging of MONAI 0.9.
"""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gcis_runtime.bundles.manifest import POSITIONS
from gcis_runtime.choices import Merging
from gcis_runtime.errors import CheckpointError
from gcis_train.nets.config import PUBLISHED_TEXT_WEIGHTS, NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.weights.checkpoint import CheckpointConfig, PromptEntry, hash_file, save
from gcis_train.weights.pickles import DamagedFileError, load_pickle
from gcis_train.weights.published import published_name
from gcis_train.weights.stored_values import IMPORTED_MERGING, refuse_non_finite

Kind = Literal["gcis-routed", "gcis-single", "swin-encoder", "swin-unetr"]

_EXPECTED = (
    "a published gCIS checkpoint (routed, or single-task params.pth), SwinUNETR's self-supervised encoder "
    "(model_swinvit.pt) or a SwinUNETR checkpoint"
)
_PATHWAY = re.compile(r"^decoder10\.layer_p(\d+)\.")
_OUT = re.compile(r"^out(_p\d+)?\.conv\.conv\.weight$")
_STEM = "swinViT.patch_embed.proj.weight"
_INDEX = "relative_position_index"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Import:
    """Contents of a foreign file.

    Attributes:
        kind: Format of the file.
        config: Configuration of the checkpoint to write.
        weights: Tensors by parameter name of this package.
        used: Names in the file that were used.
        unused: Names in the file that were not used, each with the reason.
        missing: Parameters that the file lacks; a training initialises them randomly.
    """

    kind: Kind
    config: CheckpointConfig
    weights: dict[str, Tensor]
    used: tuple[str, ...]
    unused: dict[str, str]
    missing: tuple[str, ...]


def read_foreign(path: Path, *, prompt: str | None = None, merging: Merging = IMPORTED_MERGING) -> Import:
    """Read a foreign checkpoint.

    Args:
        path: A `.pt` or `.pth` file.
        prompt: Name of the structure of a single-task checkpoint.
        merging: Patch merging that the weights were trained with, which files do not record. `"v2"` is right
            only for a SwinUNETR trained with MONAI 1.5 or later.

    Raises:
        CheckpointError: The file cannot be read, contains code, has an unknown format or another number of
            image channels or classes, or tensors do not fit or are not finite.
    """
    state = _by_published_name(_tensors(path), path)
    kind = _recognise(state.keys(), path)
    stem = state[_STEM][1]
    _check_channels(kind, state, path)
    pathways = 1 + max((int(m.group(1)) for n in state if (m := _PATHWAY.match(n))), default=0)
    try:
        text_dim = int(state["prompt_router.weight"][1].shape[1]) if kind == "gcis-routed" else 512
        network = NetworkConfig(
            feature_size=int(stem.shape[0]),
            in_channels=int(stem.shape[1]),
            pathways=pathways,
            text_dim=text_dim,
            merging=merging,
        )
    except (ValueError, IndexError) as error:
        raise _refusal(path, str(error)) from error
    net = _network(kind, network)
    ours = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith(_INDEX)}
    weights, unused, claimed = _match(ours, state, single=kind != "gcis-routed")
    missing = tuple(name for name in ours if name not in weights)
    _require(kind, missing, unused, path)
    buffers = {n: t for n, t in net.state_dict().items() if n.endswith(_INDEX)}
    single = kind == "gcis-single"
    config = CheckpointConfig(
        kind="routed" if kind == "gcis-routed" else "static" if single else "encoder",
        network=network,
        prompts=(PromptEntry(prompt=prompt),) if single and prompt else (),
        path_selections=(Pathway((0,) * len(POSITIONS)).one_based,) if single else (),
        text_weights=PUBLISHED_TEXT_WEIGHTS if kind == "gcis-routed" else "unknown",
        provenance={"imported": path.name, "source_sha256": hash_file(path), "source_kind": kind},
    )
    return Import(
        kind=kind,
        config=config,
        weights={**weights, **buffers},
        used=tuple(sorted(claimed)),
        unused=unused,
        missing=missing,
    )


def import_file(
    path: Path, folder: Path, *, prompt: str | None = None, merging: Merging = IMPORTED_MERGING
) -> Import:
    """Read a foreign checkpoint and write it as a checkpoint folder.

    Raises:
        CheckpointError: See `read_foreign`, or the folder cannot be written.
    """
    found = read_foreign(path, prompt=prompt, merging=merging)
    save(folder, found.config, found.weights)
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a pickle by name, from `state_dict`, `model` or the top level."""
    try:
        tree: Any = load_pickle(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read",
            received=error.strerror or str(error),
            expected=_EXPECTED,
            fix="Check the path and its permissions.",
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} contains more than tensors and plain values, or is not a PyTorch file",
            received="pickled objects beyond tensors, numbers and strings",
            expected=_EXPECTED,
            fix="Save only the state_dict; loading other objects could run code.",
        ) from error
    except DamagedFileError as error:
        raise CheckpointError(
            f"{path} cannot be read",
            received=str(error),
            expected=_EXPECTED,
            fix="Download or copy the file again, and compare its size with that of the original.",
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
    if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
        raise _refusal(path, f"a {type(tree).__name__}")
    tensors = {name: value for name, value in tree.items() if isinstance(value, Tensor)}
    if not tensors:
        raise _refusal(path, "no tensor")
    refuse_non_finite(tensors, path)
    return tensors


def _published(name: str) -> str:
    """Return a name without wrapper prefixes and with the published names of encoder and linear layers."""
    name = name.removeprefix("module.").removeprefix("net.")
    name = re.sub(r"^(swin_vit|swinvit)\.", "swinViT.", name)
    if re.match(r"^(patch_embed|layers[1-4])\.", name):
        name = f"swinViT.{name}"
    return re.sub(r"\.mlp\.fc([12])\.", r".mlp.linear\1.", name)


def _by_published_name(tensors: dict[str, Tensor], path: Path) -> dict[str, tuple[str, Tensor]]:
    """Return name in the file and tensor by published name; two with the same name are an error."""
    state: dict[str, tuple[str, Tensor]] = {}
    for name, tensor in tensors.items():
        wanted = _published(name)
        if wanted in state:
            raise _refusal(path, f"two tensors for the same parameter: {state[wanted][0]} and {name}")
        state[wanted] = (name, tensor)
    return state


def _recognise(found: Iterable[str], path: Path) -> Kind:
    names = set(found)
    if _STEM not in names:
        raise _refusal(path, f"names such as {', '.join(sorted(names)[:3])}")
    if any(_PATHWAY.match(n) for n in names) and "prompt_router.weight" in names:
        return "gcis-routed"
    if "decoder10.layer.conv2_2.conv.weight" in names:
        return "gcis-single"
    if "decoder5.conv_block.conv1.conv.weight" in names:
        return "swin-unetr"
    if any(n.startswith("decoder") or "prompt_router" in n for n in names):
        raise _refusal(path, "a decoder that is neither routed nor single-task")
    return "swin-encoder"


def _check_channels(kind: Kind, state: dict[str, tuple[str, Tensor]], path: Path) -> None:
    """Raise an error if images have several channels, or a gCIS network has other classes than two."""
    stem = state[_STEM][1]
    if stem.dim() == 5 and stem.shape[1] != 1:
        raise CheckpointError(
            f"{path} is a network for images of several channels, which is not supported",
            received=f"{stem.shape[1]} input channels",
            expected="1 input channel: the CT",
            fix="Import weights that were trained on CT images with one channel.",
        )
    for name, (_, tensor) in state.items():
        if kind.startswith("gcis") and _OUT.match(name) and tensor.shape[0] != 2:
            raise CheckpointError(
                f"{path} is a network for several classes per prompt, which is not supported",
                received=f"{tensor.shape[0]} output channels",
                expected="2 output channels per prompt: background and foreground",
                fix="Train one prompt per structure, or import weights with two output channels.",
            )


def _network(kind: Kind, config: NetworkConfig) -> GcisNet | StaticGcisNet:
    if kind == "gcis-routed":
        return GcisNet(config)
    return StaticGcisNet(config, [Pathway((0,) * len(POSITIONS))])


def _match(
    ours: dict[str, Tensor], state: dict[str, tuple[str, Tensor]], *, single: bool
) -> tuple[dict[str, Tensor], dict[str, str], set[str]]:
    """Return the matched tensors, the unused names in the file with reasons, and the used names."""
    weights: dict[str, Tensor] = {}
    unused = {source: "no counterpart" for source, _ in state.values() if not source.endswith(_INDEX)}
    claimed: set[str] = set()
    for name, mine in ours.items():
        wanted = published_name(name, single=single)
        if wanted not in state:
            continue
        source, theirs = state[wanted]
        if theirs.shape != mine.shape:
            unused[source] = f"shape {tuple(theirs.shape)}, expected {tuple(mine.shape)}"
            continue
        weights[name] = theirs.to(torch.float32)
        claimed.add(source)
        unused.pop(source, None)
    return weights, unused, claimed


def _require(kind: Kind, missing: tuple[str, ...], unused: dict[str, str], path: Path) -> None:
    """Raise an error for an incomplete gCIS file or an encoder file with an incomplete transformer."""
    needed = [n for n in missing if kind.startswith("gcis") or n.startswith("encoder.swin.")]
    if needed or (kind.startswith("gcis") and unused):
        detail = f"{len(needed)} tensors missing ({', '.join(needed[:3])})" if needed else ""
        extra = f"{len(unused)} that do not fit ({', '.join(list(unused)[:3])})" if unused else ""
        raise CheckpointError(
            f"{path} has the format {kind} but is incomplete",
            received="; ".join(part for part in (detail, extra) if part),
            expected=_EXPECTED,
            fix="Download the file again, or choose another one.",
        )


def _refusal(path: Path, received: str) -> CheckpointError:
    return CheckpointError(
        f"{path} does not contain weights in a known format",
        received=received,
        expected=_EXPECTED,
        fix="Choose another file.",
    )
