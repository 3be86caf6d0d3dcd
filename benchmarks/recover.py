"""The trained network out of a bundle: its ONNX weights put back into PyTorch, undoing what export changed.

A clean clone has the demo bundle and not the checkpoint that it came from, and comparing with PyTorch needs
the network that was trained. Export copies weights under the names of its own modules; what it changed on the
way (queries scaled, neighbours reordered, the class difference folded) is undone here, and the network is run
beside the graph before anyone trusts it.
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
"""Blocks at each position of the published network."""
_CLOSE = 1e-4
"""Largest difference from the graph, as a share of its largest margin: rounding differs, weights do not."""


def recovered(bundle: Bundle) -> StaticGcisNet:
    """Return the static network that a bundle's `model.onnx` was exported from, in evaluation mode.

    Args:
        bundle: A bundle of `gcis-export`; weights that it stores in 16 bits come back as it stores them.

    Raises:
        BundleError: The graph's weights cannot be told apart, or the network does not give its answers.
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
    net = StaticGcisNet(NetworkConfig(feature_size=feature_size, pathways=blocks), paths).eval()
    export_model = ExportNet(net, manifest.window.patch_size)
    tables = {n: t for n, t in export_model.named_buffers() if n.endswith(".attention.table")}
    with torch.no_grad():
        for name, tensor in [*export_model.named_parameters(), *tables.items()]:
            tensor.copy_(_weight(weights, name))
        _undo(export_model, net)
    _check(net, bundle)
    return net


def save_static(net: StaticGcisNet, bundle: Bundle, folder: Path) -> None:
    """Write a recovered network as a static checkpoint, from which `gcis-export` makes the bundle again."""
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
    """Return a checkpoint, or where none is given the recovered one of a bundle, written into a folder.

    Args:
        path: The checkpoint or its run folder; None: the bundle's own network.
        bundle: The bundle's folder or name.
        folder: For the checkpoint.
    """
    if path is not None:
        return path
    opened = open_bundle(find_bundle(bundle))
    save_static(recovered(opened), opened, folder / "recovered")
    return folder / "recovered"


def seeded_embeddings(count: int, dim: int) -> Tensor:
    """Return seeded embeddings (count, dim): a bundle does not hold those that its router read."""
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0))


def _weight(weights: dict[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise BundleError(
            "the network cannot be recovered from the bundle",
            received=f"a graph without {name}",
            expected="every weight under its own name: export keeps one of several equal tensors, as an "
            "untrained network has them",
            fix="Give a bundle of a trained network.",
        )
    return weights[name]


def _undo(export_model: ExportNet, net: StaticGcisNet) -> None:
    """Write a export_model's weights into the network that it is a export_model of."""
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
    """Copy all but the last position; there, halves whose difference is what was folded."""
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
    """Compare network and graph on noise."""
    window = np.random.default_rng(0).random((1, 1, *bundle.manifest.window.patch_size), dtype=np.float32)
    session = ort.InferenceSession(str(bundle.model_file), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {INPUT: window})
    with torch.no_grad():
        found = net(torch.from_numpy(window)).numpy()
    difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    if not difference <= _CLOSE:
        raise BundleError(
            "the network that was recovered from the bundle does not give its answers",
            received=f"{difference:.1e} of the largest margin apart",
            expected=f"at most {_CLOSE:.0e}",
            fix="Export the bundle again with this version.",
        )
