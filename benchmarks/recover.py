"""Recover the trained network from a bundle: load the weights of its ONNX graph into PyTorch.

A clean clone has the demo bundle but not its checkpoint, and comparisons with PyTorch need the trained
network. Export stores weights under the names of its own modules and transforms some of them (scaled queries,
reordered neighbours, folded class difference). These steps are inverted here, and the logits of the recovered
network are compared with those of the graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from torch import Tensor

from gcis_export.graph.network import ExportNet
from gcis_export.graph.swin import Merging
from gcis_export.graph.write import INPUT
from gcis_runtime.bundles.bundle import Bundle, open_bundle
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.errors import BundleError
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.weights import checkpoint

PATHWAYS = 6
"""Blocks per position of the published network."""
_CLOSE = 1e-4
"""Largest allowed difference of logits, as a share of the largest logit; covers rounding only."""


def recovered(bundle: Bundle) -> StaticGcisNet:
    """Return the static network from which `model.onnx` of a bundle was exported, in evaluation mode.

    Args:
        bundle: Bundle of `gcis-export`; weights stored in 16 bits are returned with that precision.

    Raises:
        BundleError: The graph lacks a weight, or the network and the graph give different logits.
    """
    manifest = bundle.manifest
    paths = [Pathway(tuple(n - 1 for n in p.path_selection)) for p in manifest.pathways]
    blocks = max(PATHWAYS, 1 + max(max(p.choices) for p in paths))
    model = onnx.load(str(bundle.model_file))
    weights = {
        t.name.removesuffix(".half"): torch.from_numpy(numpy_helper.to_array(t).astype(np.float32))
        for t in model.graph.initializer
        if t.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }
    del model
    feature_size = len(_weight(weights, "encoder.swin.embed.weight"))
    config = NetworkConfig(
        feature_size=feature_size, pathways=blocks, merging=manifest.provenance.network_merging
    )
    net = StaticGcisNet(config, paths).eval()
    export_model = ExportNet(net, manifest.window.patch_size)
    tables = {n: t for n, t in export_model.named_buffers() if n.endswith(".attention.table")}
    with torch.no_grad():
        for name, tensor in [*export_model.named_parameters(), *tables.items()]:
            tensor.copy_(_weight(weights, name))
        _undo(export_model, net)
    _check(net, bundle)
    return net


def save_static(net: StaticGcisNet, bundle: Bundle, folder: Path) -> None:
    """Write a recovered network as a static checkpoint, which `gcis-export` can export again."""
    manifest = bundle.manifest
    prompts = tuple(label.prompt for label in manifest.labels)
    settings = checkpoint.CheckpointConfig(
        kind="static",
        network=net.config,
        preprocess=manifest.preprocess,
        window=manifest.window,
        prompts=checkpoint.prompt_table(prompts, seeded_embeddings(len(prompts), net.config.text_dim)),
        path_selections=tuple(p.one_based for p in net.pathways),
        text_weights="random (seed 0)",
        provenance={"stage": "recovered from a bundle", "bundle_sha256": bundle.sha256},
    )
    checkpoint.save(folder, settings, net.state_dict())


def checkpoint_or_recovered(path: Path | None, bundle: str, folder: Path) -> Path:
    """Return a checkpoint: the given one, or one recovered from a bundle.

    Args:
        path: Checkpoint or run folder; None recovers the network of the bundle.
        bundle: Folder or name of the bundle.
        folder: Folder in which the recovered checkpoint is written.
    """
    if path is not None:
        return path
    opened = open_bundle(find_bundle(bundle))
    save_static(recovered(opened), opened, folder / "recovered")
    return folder / "recovered"


def seeded_embeddings(count: int, dim: int) -> Tensor:
    """Return seeded embeddings, (count, dim), since a bundle does not store those of its prompts."""
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0))


def _weight(weights: dict[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise BundleError(
            "the network cannot be recovered from the bundle",
            received=f"a graph without {name}",
            expected="every weight under its own name; export merges equal tensors, such as those of an "
            "untrained network",
            fix="Give a bundle of a trained network.",
        )
    return weights[name]


def _undo(export_model: ExportNet, net: StaticGcisNet) -> None:
    """Copy the weights of an export model into the network that it was made from."""
    ours, theirs = export_model.encoder, net.encoder
    for target, source in (
        (theirs.swin.patch_embed.proj, ours.swin.embed),
        (theirs.encoder1, ours.first),
        *zip(
            (theirs.encoder2, theirs.encoder3, theirs.encoder4, theirs.encoder5, theirs.encoder10),
            ours.rest,
            strict=True,
        ),
    ):
        target.load_state_dict(source.state_dict())
    for number, stage in enumerate(ours.swin.stages, start=1):
        layer = getattr(theirs.swin, f"layers{number}")[0]
        for block, target in zip(stage.blocks, layer.blocks, strict=True):  # type: ignore[arg-type]
            _undo_block(block, target)
        _undo_merging(stage.merging, layer.downsample)  # type: ignore[arg-type]
    _undo_decoder(export_model, net)


def _undo_block(block: Any, target: Any) -> None:
    attention, plain = block.attention, target.attn
    for name in ("norm1", "norm2"):
        getattr(target, name).load_state_dict(getattr(block, name).state_dict())
    for name in ("linear1", "linear2"):
        getattr(target.mlp, name).load_state_dict(getattr(block, name).state_dict())
    plain.proj.load_state_dict(block.proj.state_dict())
    plain.relative_position_bias_table.copy_(attention.table.t())
    plain.qkv.load_state_dict(attention.qkv.state_dict())
    width = plain.qkv.in_features
    plain.qkv.weight[:width] /= plain.scale
    plain.qkv.bias[:width] /= plain.scale


def _undo_merging(merging: Merging, target: Any) -> None:
    width = merging.reduction.in_features // 8
    place = torch.arange(8 * width)
    if merging.folded:
        place = torch.cat([torch.arange(width) + merging.order.index(n) * width for n in range(8)])
    target.norm.weight[place] = merging.norm.weight
    target.norm.bias[place] = merging.norm.bias
    target.reduction.weight[:, place] = merging.reduction.weight


def _undo_decoder(export_model: ExportNet, net: StaticGcisNet) -> None:
    """Copy all positions but the last; there, split the folded class difference into two halves."""
    state = {n: t for n, t in export_model.decoder.state_dict().items() if not n.startswith("positions.6.")}
    net.decoder.load_state_dict(state, strict=False)
    last: Any = net.decoder.positions[6].blocks
    for members, head in zip(export_model.members, export_model.heads, strict=True):
        folded: Any = head
        for row, member in enumerate(members):
            block = last[str(net.pathways[member].choices[6])]
            weight, bias = folded.weight[row : row + 1] / 2, folded.bias[row : row + 1] / 2
            block.weight.copy_(torch.cat([-weight, weight]))
            block.bias.copy_(torch.cat([-bias, bias]))


def _check(net: StaticGcisNet, bundle: Bundle) -> None:
    """Raise BundleError unless network and graph give the same logits for a window of noise."""
    window = np.random.default_rng(0).random((1, 1, *bundle.manifest.window.patch_size), dtype=np.float32)
    session = ort.InferenceSession(str(bundle.model_file), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {INPUT: window})
    with torch.no_grad():
        found = net(torch.from_numpy(window)).numpy()
    difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    if not difference <= _CLOSE:
        raise BundleError(
            "the network recovered from the bundle and its graph give different logits",
            received=f"a difference of {difference:.1e} of the largest logit",
            expected=f"at most {_CLOSE:.0e}",
            fix="Export the bundle again with this version.",
        )
