"""ONNX Runtime: the engine that is always there; CPU, or CUDA where its provider is."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from gcis_runtime.bundle import Bundle
from gcis_runtime.cpus import usable_cpus
from gcis_runtime.errors import EngineError
from gcis_runtime.sessions.base import check_graph

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


class OnnxSession:
    """A bundle's ONNX graph in ONNX Runtime; see `Session`."""

    def __init__(self, bundle: Bundle, *, device: str, threads: int | None = None) -> None:
        self.name = "onnx"
        self.version = str(ort.__version__)
        self.device = device
        self.threads = (threads or usable_cpus()) if device == "cpu" else 0
        self.precision = next((e.precision for e in bundle.manifest.engines if e.backend == "onnx"), "fp32")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if self.threads:
            options.intra_op_num_threads = self.threads
            options.inter_op_num_threads = 1
        try:
            session = ort.InferenceSession(str(bundle.model_file), options, providers=_providers(device))
        except Exception as error:  # ONNX Runtime's errors derive from Exception alone
            raise EngineError(
                "ONNX Runtime cannot load the graph",
                received=_first_line(error),
                fix="Run `gcis-bundle verify`.",
            ) from error
        active = session.get_providers()
        if device != "cpu" and active[0] != _CUDA:
            # ONNX Runtime falls back to the CPU without a word when a CUDA library is missing.
            raise EngineError(
                "ONNX Runtime could not start on CUDA",
                received=", ".join(active),
                expected=_CUDA,
                fix="Install CUDA 12 and cuDNN 9 (pip: nvidia-cudnn-cu12), or use --device cpu.",
            )
        check_graph(
            bundle.manifest,
            inputs={i.name: i.shape for i in session.get_inputs()},
            outputs={o.name: o.shape for o in session.get_outputs()},
        )
        self._input, self._output = bundle.manifest.input.name, bundle.manifest.output.name
        self._session: ort.InferenceSession | None = session

    def run(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute one window; see `Session.run`."""
        if self._session is None:
            raise EngineError("the session is closed", fix="Open the bundle again.")
        try:
            out: NDArray[np.float32] = self._session.run([self._output], {self._input: window})[0]
        except Exception as error:
            raise EngineError("ONNX Runtime failed on a window", received=_first_line(error)) from error
        return out

    def close(self) -> None:
        """Free the engine."""
        self._session = None


def _providers(device: str) -> list[object]:
    """Return ONNX Runtime's providers for a device."""
    if device == "cpu":
        return [_CPU]
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA and cuDNN libraries that pip installed
    if _CUDA not in ort.get_available_providers():
        raise EngineError(
            "this ONNX Runtime has no CUDA provider",
            received=", ".join(ort.get_available_providers()),
            expected=_CUDA,
            fix="Install onnxruntime-gpu in place of onnxruntime, or use --device cpu.",
        )
    return [(_CUDA, {"device_id": int(device.partition(":")[2] or 0)}), _CPU]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
