"""Run a compiled TensorRT, tensorrt-lean or TensorRT-RTX engine through one recorded CUDA graph."""

from __future__ import annotations

import contextlib
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.engines.gpu.buffers import GpuBuffers
from gcis_runtime.engines.gpu.device import Device
from gcis_runtime.engines.gpu.probe import require_gpu
from gcis_runtime.engines.session import check_graph
from gcis_runtime.engines.tensorrt.engines import find_engine, wrong_precision
from gcis_runtime.engines.tensorrt.family import Family, load_runner
from gcis_runtime.engines.tensorrt.layers import precision_in_report
from gcis_runtime.engines.tensorrt.log import last_error, make_log, out_of_memory
from gcis_runtime.errors import DeviceMemoryError, EngineError, UnusableEngineError
from gcis_runtime.system.private_cache import PrivateCache, open_cache_beside

_JIT = "trt-rtx-jit"


@dataclass(eq=False)
class _Loaded:
    """The objects of TensorRT and the device that they use."""

    gpu: Device
    stream: Any = None
    runtime: Any = None
    engine: Any = None
    context: Any = None
    jit: Any = None

    def close(self) -> None:
        """Wait for the work in the stream, then free what it uses, in the order that TensorRT requires."""
        if self.gpu.closed:
            return
        with contextlib.ExitStack() as stack:
            stack.callback(self.gpu.close)  # also after an error
            stack.enter_context(self.gpu.current())
            stack.callback(self._drop)
            if self.stream is not None:
                self.gpu.finish(self.stream)

    def _drop(self) -> None:
        self.jit = None
        self.context = None
        self.engine = None
        self.runtime = None


class TensorrtSession:
    """A compiled engine on a GPU; see `Session` and `DeviceSession`.

    Args:
        bundle: The bundle.
        family: TensorRT family.
        device: `"cuda"` or `"cuda:1"`.
        precision: A precision; `"auto"` takes the fastest engine that passed the parity report.
        batch: Largest number of windows per run; None selects the largest batch.

    Raises:
        EngineError: There is no GPU, no engine fits and none can be built, or TensorRT fails.
        BundleError: The engine is not the one that the manifest describes.
        DeviceMemoryError: The GPU has too little memory.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        family: Family,
        device: str,
        precision: str = "auto",
        batch: int | None = None,
    ) -> None:
        info = require_gpu(device)  # first: the TensorRT runtime crashes without a driver
        self._trt, self._family = load_runner(family), family
        found = find_engine(
            bundle, family, version=str(self._trt.__version__), gpu=info, precision=precision, batch=batch
        )
        self.name: str = family.backend
        self.device = f"cuda:{info.index}"
        self.version = f"{self._trt.__name__} {self._trt.__version__}".removeprefix(f"{family.builder} ")
        self.precision, self.batch, self.threads = found.precision, found.batch, 0
        self.notes = found.notes
        self._log = make_log(self._trt)
        self.gpu = Device(info)
        self._loaded = _Loaded(gpu=self.gpu)
        # Also at the end of the process, before TensorRT and the driver are unloaded.
        self._finalizer = weakref.finalize(self, _close_quietly, self._loaded)
        try:
            self._start(bundle, found.plan)
        except BaseException:
            self.close()
            raise

    def _start(self, bundle: Bundle, plan: bytes) -> None:
        """Deserialize and check the engine, bind the buffers, run once, and record the CUDA graph."""
        self._loaded.runtime = self._made(self._trt.Runtime(self._log), "start")
        self._loaded.engine = self._made(
            self._loaded.runtime.deserialize_cuda_engine(plan), "load the engine"
        )
        self._check_precision()
        self._buffers = GpuBuffers(self.gpu, bundle.manifest, batch=self.batch)
        self.stream, self.input, self.output = (
            self._buffers.stream,
            self._buffers.input,
            self._buffers.output,
        )
        self._loaded.stream = self.stream
        cache, key = open_cache_beside(bundle.folder), self._jit_key(bundle)
        self._loaded.context = self._make_context(cache, key)
        self._bind(bundle)
        self.gpu.zero(self.input, self.stream)
        self._execute()  # allocations and kernel compilation of the first run must not be recorded
        self.gpu.finish(self.stream)
        self._keep_jit(cache, key)
        # TensorRT-RTX records CUDA graphs itself (see `_make_context`).
        self._enqueue = (
            self._execute if self._loaded.jit is not None else self.gpu.capture(self.stream, self._execute)
        )

    def _check_precision(self) -> None:
        """Check the precision of the engine's layers, if the engine contains their description."""
        inspector = self._loaded.engine.create_engine_inspector()
        report = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        found = precision_in_report(report)
        if found is not None and found != self.precision:
            raise wrong_precision(self._family, found, self.precision)

    def _make_context(self, cache: PrivateCache | None, key: dict[str, str]) -> Any:
        """Create the context. TensorRT-RTX receives the cached kernels and is set to record CUDA graphs."""
        engine, self._loaded.jit = self._loaded.engine, None
        if not hasattr(engine, "create_runtime_config") or not hasattr(self._trt, "IRuntimeCache"):
            return self._made(engine.create_execution_context(), "create an execution context")
        config = engine.create_runtime_config()
        self._loaded.jit = config.create_runtime_cache()
        found = None if cache is None else cache.find(_JIT, key)
        self._jit_before = b"" if found is None else found.read_bytes()
        if self._jit_before and not self._loaded.jit.deserialize(self._jit_before):
            self._jit_before = b""  # the cached kernels are of another version or GPU: compile again
        config.set_runtime_cache(self._loaded.jit)
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._made(engine.create_execution_context(config), "create an execution context")

    def _keep_jit(self, cache: PrivateCache | None, key: dict[str, str]) -> None:
        """Store the kernels that TensorRT-RTX compiled for this GPU in the cache next to the bundle."""
        if self._loaded.jit is None or cache is None:
            return
        data = self._loaded.jit.serialize()
        if data is not None and bytes(data) != self._jit_before:
            cache.store(_JIT, key, lambda path: path.write_bytes(bytes(data)))

    def _jit_key(self, bundle: Bundle) -> dict[str, str]:
        info = self.gpu.info
        return {
            "bundle": bundle.sha256,
            "version": self.version,
            "gpu": f"{info.name} {info.sm}",
            "precision": self.precision,
            "batch": str(self.batch),
        }

    def _bind(self, bundle: Bundle) -> None:
        """Compare the engine's tensors with the manifest, and bind them to the device buffers."""
        engine, context = self._loaded.engine, self._loaded.context
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == self._trt.TensorIOMode.INPUT]
        shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        if any(-1 in shapes[name] for name in inputs):  # dynamic batch: set to the batch of this session
            for name in inputs:
                context.set_input_shape(name, self._buffers.input_shape)
            shapes = {name: tuple(context.get_tensor_shape(name)) for name in names}
        check_graph(
            bundle.manifest,
            inputs={name: shapes[name] for name in inputs},
            outputs={name: shapes[name] for name in names if name not in inputs},
            batch=self.batch,
        )
        for name in names:
            buffer = self.input if name in inputs else self.output
            if not context.set_tensor_address(name, buffer.address):
                raise self._error("bind the buffers")

    def _execute(self) -> None:
        if not self._loaded.context.execute_async_v3(int(self.stream)):
            raise self._error("run a window")

    def enqueue(self) -> None:
        """Queue one run; see `DeviceSession`."""
        if self._loaded.context is None:
            raise EngineError(
                "the session is closed",
                received="a closed session",
                expected="an open session",
                fix="Open the bundle again.",
            )
        self._enqueue()

    def run(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute a batch of windows; see `Session.run`."""
        return self._buffers.run(window, self.enqueue)

    def close(self) -> None:
        """Free the engine and the device memory. May be called in any thread."""
        self._enqueue = self._execute
        self._finalizer.detach()
        self._loaded.close()

    def _made(self, thing: Any, what: str) -> Any:
        if thing is None:
            raise self._error(what)
        return thing

    def _error(self, what: str) -> EngineError:
        """Return the error for a failed step, with the last message of TensorRT's log."""
        line = last_error(self._log, default="no reason given")
        if out_of_memory(self._log):
            return DeviceMemoryError(
                f"{self._family.product} cannot {what}: the GPU is out of memory",
                received=line,
                fix="Use a smaller window batch, or --device cpu.",
            )
        return UnusableEngineError(
            f"{self._family.product} cannot {what}",
            received=line,
            fix="Export the bundle again for this GPU, or use --engine onnx.",
        )


def _close_quietly(loaded: _Loaded) -> None:
    """Close a session that was abandoned without `close`. Nobody can handle an error here."""
    with contextlib.suppress(EngineError):
        loaded.close()
