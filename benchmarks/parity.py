"""What rounding, engines and precisions do to margins and labels: the ground under the parity limits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from benchmarks.environment import environment
from gcis_export.gate.check_windows import Window, gather_windows
from gcis_export.gate.compare import Logits, Tolerance, compare
from gcis_export.graph.network import ExportNet
from gcis_export.graph.write import round_weights, to_onnx
from gcis_export.resolve import resolve
from gcis_runtime.bundles.manifest import Precision
from gcis_runtime.engines.openvino.quiet_import import import_openvino
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_train.weights import checkpoint

CONSTANTS = (0.3, 1.0)
"""Constant windows beside the gate's own: inside the intensity window, and above it."""

Run = Callable[[Window], Logits]


def measure(path: Path, *, fresh: bool, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Compare a checkpoint's static network with everything that should say the same.

    Args:
        path: Checkpoint or run folder.
        fresh: Take PyTorch's initial weights in place of the checkpoint's: an untrained network.
        folder: For the graph.
        say: Told of each stage.

    Returns:
        The record, ready for JSON: for each stage and window the gate's numbers.
    """
    found = checkpoint.load(path)
    network = resolve(found).network
    if fresh:
        torch.manual_seed(3)
        network = type(network)(network.config, network.pathways).eval()
    spec, window = found.config.preprocess or PreprocessSpec(), found.config.window or WindowSpec()
    windows, source = gather_windows((), spec=spec, window=window)
    names = [f"CT {i + 1}" for i in range(len(windows) - 1)] + ["constant, padding value"]
    windows += [np.full_like(windows[0], value) for value in CONSTANTS]
    names += [f"constant, {value}" for value in CONSTANTS]
    expected = _answers(_torch(network), windows)
    rows = []
    for stage, precision, run in _stages(network, window, folder):
        say(stage)
        answers = _answers(run, windows)
        rows += [
            {"stage": stage, "window": name} | _numbers(ours, theirs, precision)
            for name, ours, theirs in zip(names, answers, expected, strict=True)
        ]
    return {
        "what": "parity_fresh" if fresh else "parity",
        "environment": environment(),
        "network": {"feature_size": found.config.network.feature_size, "prompts": len(network.pathways)},
        "window": list(window.patch_size),
        "windows": source,
        "reference": "PyTorch static, float32",
        "rows": rows,
    }


def _stages(network: nn.Module, window: WindowSpec, folder: Path) -> Sequence[tuple[str, Precision, Run]]:
    """Return what is compared: name, precision, and how to run a window."""
    export_model = ExportNet(network, window.patch_size)  # type: ignore[arg-type]
    file = folder / "model.onnx"
    file.write_bytes(to_onnx(export_model).SerializeToString())
    rounded = copy.deepcopy(export_model)
    round_weights(rounded)
    core = import_openvino().Core()
    stages: list[tuple[str, Precision, Run]] = [
        ("PyTorch float64", "fp32", _torch(copy.deepcopy(network).double(), torch.float64)),
        ("export graph in PyTorch", "fp32", _torch(export_model)),
        ("16-bit weights in PyTorch", "fp32", _torch(rounded)),
        (f"ONNX Runtime {onnxruntime.__version__}", "fp32", _onnxruntime(file)),
        ("OpenVINO fp32", "fp32", _openvino(core, file, "f32")),
    ]
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        stages.append(("OpenVINO bf16", "bf16", _openvino(core, file, "bf16")))
    return stages


def _numbers(ours: Logits, theirs: Logits, precision: Precision) -> dict[str, Any]:
    """Return one window's numbers, as the gate takes them."""
    free = Tolerance(relative=0.0, band=1e-3, labels=0.0, dice=0.0)
    row = compare("", [ours], "", [theirs], precision=precision, tolerance=free)
    return {
        "relative": row.max_rel,
        "labels_changed": row.labels_changed,
        "labels_decided": row.labels_decided,
        "undecided": row.undecided,
        "dice": row.dice,
    }


def _answers(run: Run, windows: Sequence[Window]) -> list[Logits]:
    return [np.array(run(window), dtype=np.float32) for window in windows]


def _torch(network: nn.Module, dtype: torch.dtype = torch.float32) -> Run:
    def run(window: Window) -> Logits:
        with torch.no_grad():
            out: npt.NDArray[np.float32] = network(torch.from_numpy(window).to(dtype)).float().numpy()
        return out

    return run


def _onnxruntime(file: Path) -> Run:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda window: session.run(None, {"image": window})[0]


def _openvino(core: Any, file: Path, hint: str) -> Run:
    request = core.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": hint}).create_infer_request()
    return lambda window: np.array(request.infer([window])[0])
