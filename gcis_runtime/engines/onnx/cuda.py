"""Run a bundle in ONNX Runtime on an NVIDIA GPU, with fixed device buffers and an explicit stream."""

from __future__ import annotations

import contextlib
import io
import weakref
from collections import Counter
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.engines.gpu.buffers import GpuBuffers
from gcis_runtime.engines.gpu.device import Device
from gcis_runtime.engines.gpu.probe import require_gpu
from gcis_runtime.engines.graph_choice import choose_graph
from gcis_runtime.engines.onnx.bound_session import BoundSession
from gcis_runtime.engines.onnx.cuda_precision import automatic_precision
from gcis_runtime.engines.onnx.cuda_settings import CudaSettings
from gcis_runtime.engines.onnx.loading import CPU_PROVIDER, load, operators_on_cpu, set_log_severity
from gcis_runtime.engines.usable import NO_BF16_ON_CUDA
from gcis_runtime.errors import EngineError

CUDA_PROVIDER = "CUDAExecutionProvider"
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators that must run on the GPU: on the CPU, each is slower than the rest of the graph."""
_OFFERED = ("auto", "fp32", "fp16")
_MISSING = {
    "bf16": NO_BF16_ON_CUDA,
    "int8": "the CUDA provider has no 3-D convolution in int8, and would compute in float32",
}
"""Precisions that are not offered, and the reason."""


class OnnxCudaSession:
    """A bundle's ONNX graph in ONNX Runtime on a GPU; see `Session` and `DeviceSession`.

    Args:
        bundle: The bundle.
        device: `"cuda"` or `"cuda:1"`.
        precision: A precision; `"auto"` takes fp16 if it passed the parity gate, by a row of the bundle or of
            this machine, otherwise fp32. `reason` says why.
        batch: Largest number of windows per run; None selects the graph with the largest batch.
        tf32: Round the factors of float32 products to 11 bits. Faster, and not covered by the parity report.
        settings: Settings that change the speed, with the number of windows per run in place of `batch`; None
            for the plain settings.

    Attributes:
        settings: The settings in use.
        settings_text: The settings, and why they are used.
        measured: Settings that a trial chose in place of the plain ones; empty otherwise. See `cuda_open`.

    Raises:
        EngineError: There is no GPU or no cuda-python, the precision is not available, or the CUDA provider
            does not start or assigns products to the CPU.
        DeviceMemoryError: The GPU has too little memory.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str,
        precision: str = "auto",
        batch: int | None = None,
        tf32: bool = False,
        settings: CudaSettings | None = None,
    ) -> None:
        _require_offered(precision)
        info = require_gpu(device)
        set_log_severity()  # before the libraries of CUDA are loaded
        complaint = _require_provider()
        manifest = bundle.manifest
        self.reason = ""
        self.notes: tuple[str, ...] = ()
        if precision == "auto":
            choice = automatic_precision(bundle, device)
            precision, self.reason = choice.precision, choice.text
            self.notes = (choice.text,) if choice.note else ()
        graph = choose_graph(manifest, precision=precision, batch=settings.batch if settings else batch)
        self.settings = settings or CudaSettings(batch=graph.batch)
        self.settings_text, self.measured = self.settings.text, ""
        self.name, self.version, self.device = "onnx", str(ort.__version__), f"cuda:{info.index}"
        self.precision: str = graph.precision
        self.batch, self.threads = graph.batch, 0
        self.notes += ("TF32 is on: products of float32 round to 11 bits",) if tf32 else ()
        self.gpu = Device(info)
        self._bound = BoundSession(gpu=self.gpu, recorded=self.settings.graph)
        # Also at the end of the process, before ONNX Runtime and the driver are unloaded.
        self._finalizer = weakref.finalize(self, _close_quietly, self._bound)
        try:
            self._buffers = GpuBuffers(self.gpu, manifest, batch=graph.batch)
            self.stream, self.input, self.output = (
                self._buffers.stream,
                self._buffers.input,
                self._buffers.output,
            )
            self._bound.stream = self.stream
            options = _options(info.index, self.stream, self.settings, tf32=tf32)
            providers = [(CUDA_PROVIDER, options), CPU_PROVIDER]
            with bundle.graph_source(graph.file) as source:
                self._bound.session = session = load(
                    source, manifest, providers, threads=0, batch=graph.batch, record_placement=True
                )
            _require_active(session, complaint)
            self.notes += _left_to_cpu(session)
            self._bound.binding = self._bind(session, bundle, info.index)
            # Runs are synchronous (the default): otherwise ONNX Runtime leaves page-locked buffers to the
            # destructor of the session (see `bound_session`). Waiting costs less than 1 ms of 16 per window.
            self._bound.options = ort.RunOptions()
        except BaseException:
            self.close()
            raise

    def _bind(self, session: ort.InferenceSession, bundle: Bundle, index: int) -> Any:
        """Bind the input and output of the graph to the device buffers."""
        binding, shapes, manifest = session.io_binding(), self._buffers, bundle.manifest
        binding.bind_input(
            manifest.input.name, "cuda", index, np.float32, shapes.input_shape, self.input.address
        )
        binding.bind_output(
            manifest.output.name, "cuda", index, np.float32, shapes.output_shape, self.output.address
        )
        return binding

    def enqueue(self) -> None:
        """Run once; see `DeviceSession`. The run has finished when this function returns."""
        self._bound.run()

    def run(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute a batch of windows; see `Session.run`."""
        return self._buffers.run(window, self.enqueue)

    def close(self) -> None:
        """Free the engine and the device memory. May be called in any thread."""
        self._finalizer.detach()
        self._bound.close()


def _close_quietly(bound: BoundSession) -> None:
    """Close a session that was abandoned without `close`. Nobody can handle an error here."""
    with contextlib.suppress(EngineError):
        bound.close()


def _options(index: int, stream: Any, settings: CudaSettings, *, tf32: bool) -> dict[str, str]:
    """Return the CUDA provider's options."""
    graph = {"enable_cuda_graph": "1"} if settings.graph else {}
    return graph | {
        "device_id": str(index),
        "cudnn_conv_algo_search": settings.search,
        "use_tf32": "1" if tf32 else "0",
        "user_compute_stream": str(int(stream)),
    }


def _require_offered(precision: str) -> None:
    if precision not in _OFFERED:
        raise EngineError(
            "ONNX Runtime does not compute in this precision on CUDA",
            received=f"--precision {precision}; {_MISSING.get(precision, 'unknown')}",
            expected=", ".join(_OFFERED),
            fix="Use one of them, or --engine trt or trt-rtx.",
        )


def _require_provider() -> str:
    """Load the CUDA libraries that pip installed, and check that ONNX Runtime has the CUDA provider.

    Returns:
        ONNX Runtime's first message about a library that it did not find; empty if it found all.
    """
    printed = io.StringIO()
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(printed):  # standard output is reserved for results
            ort.preload_dlls()
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise EngineError(
            "this ONNX Runtime has no CUDA provider",
            received=", ".join(ort.get_available_providers()),
            expected=CUDA_PROVIDER,
            fix="Install onnxruntime-gpu in place of onnxruntime, or use --device cpu.",
        )
    return next((line for line in printed.getvalue().splitlines() if "Failed" in line), "")


def _require_active(session: ort.InferenceSession, complaint: str) -> None:
    """Check that a session runs on the GPU, since ONNX Runtime falls back to the CPU without an error."""
    active = session.get_providers()
    if not active or active[0] != CUDA_PROVIDER:
        version = str(getattr(ort, "cuda_version", "")).partition(".")[0]
        raise EngineError(
            "ONNX Runtime could not start on CUDA",
            received=", ".join((*active, complaint) if complaint else active),
            expected=CUDA_PROVIDER,
            fix=f"Install CUDA {version} and cuDNN 9: pip install 'gcis[cuda]'; or use --device cpu.".replace(
                "  ", " "
            ),
        )


def _left_to_cpu(session: ort.InferenceSession) -> tuple[str, ...]:
    """Check that no product runs on the CPU, and return a note about other operators that do.

    ONNX Runtime assigns operators for which the CUDA provider has no kernel to the CPU.
    """
    found = operators_on_cpu(session) or Counter[str]()
    text = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
    if PRODUCTS & found.keys():
        raise EngineError(
            "ONNX Runtime assigns part of the graph to the CPU",
            received=text,
            expected=f"all products on {CUDA_PROVIDER}",
            fix="Use --precision fp32, another onnxruntime-gpu, or --device cpu.",
        )
    return (f"ONNX Runtime assigns part of the graph to the CPU: {text}",) if found else ()
