"""Run a bundle in OpenVINO on the CPU, from its ONNX graph or from the cached compiled model."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import Graph, Manifest
from gcis_runtime.engines.graph_choice import choose_graph, passed
from gcis_runtime.engines.layer_precision import computed_in
from gcis_runtime.engines.openvino.quiet_import import import_openvino
from gcis_runtime.engines.session import check_graph
from gcis_runtime.engines.usable import advice
from gcis_runtime.errors import DeviceMemoryError, EngineError, UnusableEngineError
from gcis_runtime.system.cpus import allowed_cpus, usable_cpus
from gcis_runtime.system.private_cache import CachedFile, PrivateCache, open_cache

_OFFERED = ("fp32", "bf16", "int8")
_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_MULTIPLIES = ("Convolution", "Deconvolution")


class OpenvinoSession:
    """A bundle's ONNX graph in OpenVINO on the CPU; see `Session`.

    The compiled model is stored in this user's cache (`$GCIS_HOME/cache`), so that later starts are fast.

    Args:
        bundle: The bundle.
        precision: `"fp32"`, `"bf16"`, `"int8"` (which has its own graph), or `"auto"`: bf16 if the CPU
            supports it and it passed the parity report, otherwise fp32.
        threads: CPU threads; None means one per processor that this process may use.
        batch: Largest number of windows per run; None selects the graph with the largest batch.

    Raises:
        EngineError: The graph cannot be loaded, or OpenVINO does not compute in the requested precision.
        BundleError: The graph is not the one that the manifest describes.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "auto",
        threads: int | None = None,
        batch: int | None = 1,
    ) -> None:
        self._request: Any = None  # declared before the mapped model that it reads, and therefore freed first
        self._mapped: Any = None
        self._ov = import_openvino()
        self.name, self.device = "openvino", "cpu"
        self.version = str(self._ov.__version__).split("-", maxsplit=1)[0]
        self.threads = threads or usable_cpus()
        core = self._ov.Core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        wanted = choose_precision(precision, bundle.manifest, capabilities)
        graph = choose_graph(bundle.manifest, precision="int8" if wanted == "int8" else "fp32", batch=batch)
        self.batch = graph.batch
        settings = {
            "INFERENCE_PRECISION_HINT": _hint(wanted, capabilities),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            # OpenVINO pins its threads to the first processors: two processes with one thread each would
            # share processor 0 and run at half speed. Pin threads only if this process uses every processor.
            "ENABLE_CPU_PINNING": self.threads >= allowed_cpus(),
        }
        try:
            model, self.notes = self._load(core, bundle, graph, settings)
            self._request = model.create_infer_request()
        except RuntimeError as error:
            raise _as_engine_error(error, "OpenVINO cannot load the graph") from error
        except MemoryError as error:
            raise DeviceMemoryError("OpenVINO cannot load the graph: out of memory") from error
        self.precision = read_precision(model)
        if self.precision != wanted:
            unusable = UnusableEngineError if precision == "auto" else EngineError
            raise unusable(
                "OpenVINO does not compute in the requested precision",
                received=self.precision,
                expected=wanted,
                fix="Use --precision fp32, or another --engine.",
            )

    def _load(
        self, core: Any, bundle: Bundle, graph: Graph, settings: dict[str, Any]
    ) -> tuple[Any, tuple[str, ...]]:
        """Return the compiled model, from the cache if possible, and notes for the user."""
        cache = open_cache()
        key = {
            "graph": bundle.graph_key(graph.file),
            "openvino": str(self._ov.__version__),
            "cpu": core.get_property("CPU", "FULL_DEVICE_NAME"),
            "capabilities": " ".join(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
            **{name: str(value) for name, value in settings.items()},
        }
        found = cache.find("openvino", key) if cache is not None else None
        if found is not None:
            model = self._import(core, found, settings)
            if model is not None:
                self._check(bundle.manifest, model, graph)
                return model, ()
        with bundle.graph_source(graph.file) as source:
            read = core.read_model(source)
            self._check(bundle.manifest, read, graph)
            model = core.compile_model(read, "CPU", settings)
        if cache is not None:
            _keep(cache, key, model)
        return model, ()

    def _import(self, core: Any, found: CachedFile, settings: dict[str, Any]) -> Any:
        """Load a compiled model from the cache; return None if OpenVINO rejects it."""
        try:
            # The model reads its weights from the mapping but holds no reference to it.
            array = np.frombuffer(found.mapped, dtype=np.uint8)
            self._mapped = self._ov.Tensor(array, shared_memory=True)
            return core.import_model(self._mapped, "CPU", settings)
        except (RuntimeError, ValueError, OSError):
            return None

    def _check(self, manifest: Manifest, model: Any, graph: Graph) -> None:
        check_graph(
            manifest,
            inputs={port.any_name: _shape(port) for port in model.inputs},
            outputs={port.any_name: _shape(port) for port in model.outputs},
            batch=graph.batch,
        )

    def run(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute a batch of windows; see `Session.run`."""
        if self._request is None:
            raise EngineError(
                "the session is closed",
                received="a closed session",
                expected="an open session",
                fix="Open the bundle again.",
            )
        try:
            result = self._request.infer([window], share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise _as_engine_error(error, "OpenVINO failed on a window") from error
        out: NDArray[np.float32] = result[0]
        return out

    def close(self) -> None:
        """Free the engine."""
        self._request = None


def _hint(precision: str, capabilities: list[str]) -> str:
    """Return the precision hint for float operators; int8 graphs compute them in bf16 if available."""
    return "f32" if precision == "fp32" or "BF16" not in capabilities else "bf16"


def read_precision(model: Any) -> str:
    """Return the precision in which the convolutions of a compiled model compute, such as `"bf16"`.

    OpenVINO may ignore the precision hint, so that the precision is read from the compiled model.
    """
    found: collections.Counter[str] = collections.Counter()
    for node in model.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if info["layerType"].value in _MULTIPLIES:
            kind = str(info["runtimePrecision"].value)
            found[_PRECISIONS.get(kind, kind)] += 1
    return computed_in(found) or "unknown"


def choose_precision(precision: str, manifest: Manifest, capabilities: list[str]) -> str:
    """Return the precision to use. `"auto"` is bf16 only if the CPU supports it and it passed the parity
    report.

    Args:
        precision: The requested precision.
        manifest: The bundle's manifest.
        capabilities: Precisions that the CPU supports according to OpenVINO, such as `"BF16"`.

    Raises:
        EngineError: OpenVINO or the CPU does not support the precision.
    """
    native = "BF16" in capabilities
    if precision == "auto":
        return "bf16" if native and passed(manifest, backend="openvino", precision="bf16") else "fp32"
    if precision not in _OFFERED:
        raise EngineError(
            "OpenVINO does not support this precision",
            received=precision,
            expected="auto, fp32, bf16 or int8",
            fix="Use one of them, or another --engine.",
        )
    if precision == "bf16" and not native:
        raise EngineError(
            "this CPU has no bf16",
            received=", ".join(capabilities),
            expected="BF16",
            fix="Use --precision fp32.",
        )
    return precision


def _keep(cache: PrivateCache, key: dict[str, str], model: Any) -> None:
    """Store a compiled model in the cache; if OpenVINO cannot export it, the next start compiles again."""
    try:
        blob = model.export_model()
    except RuntimeError:
        return
    data = blob.getvalue() if hasattr(blob, "getvalue") else blob
    cache.store("openvino", key, lambda path: path.write_bytes(data))


def _as_engine_error(error: RuntimeError, message: str) -> EngineError:
    """Return an error of OpenVINO as an `EngineError`, or as a `DeviceMemoryError` if memory ran out."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
    if "bad_alloc" in str(error) or "out of memory" in str(error).lower():
        return DeviceMemoryError(f"{message}: out of memory", received=line)
    return UnusableEngineError(message, received=line, fix=advice("openvino"))


def _shape(port: Any) -> tuple[object, ...]:
    """Return the shape of a port, with dynamic axes as text so that they equal no number."""
    return tuple(d.get_length() if d.is_static else str(d) for d in port.partial_shape)
