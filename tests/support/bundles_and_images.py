"""Write small bundles and images for the runtime's tests, without training."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import nibabel as nib
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gcis_runtime.bundles.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    Engine,
    FileEntry,
    Graph,
    Label,
    Manifest,
    ParityRow,
    PromptPathway,
    Provenance,
    Tensor,
    decode,
    encode,
)
from gcis_runtime.bundles.post_rules import read_rules
from gcis_runtime.spec import PreprocessSpec, WindowSpec

ROI = (64, 64, 64)
NAMES = ("bone", "liver")
GAIN = (30.0, 8.0)
THRESHOLD = (0.7, 0.45)
"""The logit of a structure is GAIN * (3 x 3 x 3 mean of the pre-processed image - THRESHOLD)."""


def conv_weights() -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel (2, 1, 3, 3, 3) and the bias (2,) of the test network."""
    kernel = np.stack([np.full((1, 3, 3, 3), g / 27, dtype=np.float32) for g in GAIN])
    return kernel, np.array([-g * t for g, t in zip(GAIN, THRESHOLD, strict=True)], dtype=np.float32)


def write_model(path: Path, *, input_name: str = "image", nan: bool = False, batch: int = 1) -> None:
    """Write the test network: one convolution from (batch, 1, 64, 64, 64) to (batch, 2, 64, 64, 64)."""
    kernel, bias = conv_weights()
    if nan:
        bias = bias * np.nan
    graph = helper.make_graph(
        [helper.make_node("Conv", [input_name, "kernel", "bias"], ["margins"], pads=[1] * 6)],
        "test",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, [batch, 1, *ROI])],
        [helper.make_tensor_value_info("margins", TensorProto.FLOAT, [batch, 2, *ROI])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def file_entry(folder: Path, name: str) -> FileEntry:
    data = (folder / name).read_bytes()
    return FileEntry(path=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def list_graph(folder: Path, graph: Graph, **fields: Any) -> None:
    """Add a graph whose file is in the folder to the manifest; other fields replace those of the manifest."""
    manifest = decode((folder / MANIFEST_FILE).read_bytes(), source="test")
    manifest = msgspec.structs.replace(
        manifest,
        graphs=(*manifest.graphs, graph),
        files=(*manifest.files, file_entry(folder, graph.file)),
        **fields,
    )
    (folder / MANIFEST_FILE).write_bytes(encode(manifest))


def rehash_bundle(folder: Path, *names: str) -> None:
    """Update the list of files in a manifest to `model.onnx` and `names` as they are now."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    entries = [file_entry(folder, name) for name in (MODEL_FILE, *names)]
    manifest["files"] = [{"path": e.path, "sha256": e.sha256, "bytes": e.bytes} for e in entries]
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def write_bundle(
    folder: Path,
    *,
    name: str = "test",
    prompts: tuple[str, str] = NAMES,
    preprocess: PreprocessSpec | None = None,
    window: WindowSpec | None = None,
    values: tuple[int, int] = (1, 2),
    parity: tuple[ParityRow, ...] = (),
    engines: tuple[Engine, ...] = (),
    text_weights: str = "openai",
    post: tuple[str, str] = ("", ""),
    **model: Any,
) -> Path:
    """Write a valid bundle around the test network and return its folder; `post` are rules by structure."""
    folder.mkdir(parents=True)
    write_model(folder / MODEL_FILE, **model)
    manifest = Manifest(
        name=name,
        created="2026-01-01T00:00:00Z",
        notice="test bundle, not a medical device",
        preprocess=preprocess or PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0)),
        window=window or WindowSpec(patch_size=ROI),
        labels=tuple(
            Label(value=v, name=p, prompt=p, color=c, post=read_rules(r) if r else msgspec.UNSET)
            for v, p, c, r in zip(values, prompts, ((250, 240, 200), (200, 60, 40)), post, strict=True)
        ),
        pathways=tuple(
            PromptPathway(prompt=p, path_selection=(1, 2, 3, 4, 5, 6, 1), router_gaps=(0.5,) * 7)
            for p in prompts
        ),
        input=Tensor(name="image", shape=(1, 1, *ROI)),
        output=Tensor(name="margins", shape=(1, 2, *ROI)),
        graphs=(Graph(file=MODEL_FILE, precision="fp32", opset=18, nodes=1, weights_dtype="float32"),),
        engines=engines,
        files=(file_entry(folder, MODEL_FILE),),
        parity=parity,
        provenance=Provenance(checkpoint_sha256="0" * 64, text_model="ViT-B-32", text_weights=text_weights),
        versions={"gcis": "0.1.0"},
    )
    (folder / MANIFEST_FILE).write_bytes(encode(manifest))
    return folder


def smooth_ct(shape: tuple[int, int, int], *, seed: int = 0) -> np.ndarray:
    """Return a smooth int16 image from -1000 to about 900 HU, whose labels have connected surfaces."""
    rng = np.random.default_rng(seed)
    out = np.zeros(shape)
    grid = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    for _ in range(6):
        k, phase = rng.uniform(2, 14, 3), rng.uniform(0, 6.3)
        out += np.sin(sum(a * g for a, g in zip(k, grid, strict=True)) + phase)
    out = out / np.abs(out).max() * 900
    out[out < -600] = -1000
    return out.astype(np.int16)


def write_ct(
    path: Path, *, shape: tuple[int, int, int] = (40, 36, 30), affine: Any = None, seed: int = 0
) -> Path:
    """Write a smooth test CT of 3 mm voxels."""
    affine = np.diag([-3.0, -3.0, 3.0, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(smooth_ct(shape, seed=seed), affine), path)
    return path


def set_pixdim(path: Path, size: float) -> Path:
    """Overwrite the voxel size in the pixdim field of a `.nii.gz` file, as faulty writers do."""
    data = bytearray(gzip.decompress(path.read_bytes()))
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    header["pixdim"][1:4] = size
    data[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(data)))
    return path


def child_of(work: Callable[[], object]) -> int:
    """Fork a process that calls `work`, and return its process ID."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    return child
