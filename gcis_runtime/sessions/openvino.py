"""OpenVINO: the fast engine on CPUs; reads the bundle's ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundle import Bundle
from gcis_runtime.cpus import usable_cpus
from gcis_runtime.errors import EngineError
from gcis_runtime.manifest import Manifest
from gcis_runtime.sessions.base import check_graph
from gcis_runtime.sessions.quiet_openvino import import_openvino

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenvinoSession:
    """A bundle's ONNX graph in OpenVINO on the CPU; see `Session`."""

    def __init__(self, bundle: Bundle, *, precision: str = "auto", threads: int | None = None) -> None:
        ov = import_openvino()
        self.name = "openvino"
        self.version = str(ov.__version__).split("-", maxsplit=1)[0]
        self.device = "cpu"
        self.threads = threads or usable_cpus()
        core = ov.Core()
        self.precision = _choose(
            precision, bundle.manifest, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        )
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
        }
        try:
            model = core.read_model(str(bundle.model_file))
            check_graph(
                bundle.manifest,
                inputs={p.any_name: _shape(p) for p in model.inputs},
                outputs={p.any_name: _shape(p) for p in model.outputs},
            )
            self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            line = str(error).strip().splitlines()[-1][:300]
            raise EngineError(
                "OpenVINO cannot load the graph",
                received=line,
                fix="Use --engine onnx, or run `gcis-bundle verify`.",
            ) from error

    def run(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute one window; see `Session.run`."""
        if self._request is None:
            raise EngineError("the session is closed", fix="Open the bundle again.")
        try:
            result = self._request.infer([window], share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise EngineError("OpenVINO failed on a window", received=str(error)[:300]) from error
        out: NDArray[np.float32] = result[0]
        return out

    def close(self) -> None:
        """Free the engine."""
        self._request = None


def bf16_passed(manifest: Manifest) -> bool:
    """Tell whether the export checked OpenVINO in bf16 and its parity row holds its limits."""
    listed = any(e.backend == "openvino" and e.precision == "bf16" for e in manifest.engines)
    rows = [row for row in manifest.parity if "openvino" in row.stage.lower() and row.precision == "bf16"]
    return listed and bool(rows) and all(row.passed for row in rows)


def _choose(precision: str, manifest: Manifest, capabilities: list[str]) -> str:
    """Return the precision to use: bf16 by itself only where the CPU has it and the parity report allows."""
    native = "BF16" in capabilities
    if precision == "auto":
        return "bf16" if native and bf16_passed(manifest) else "fp32"
    if precision not in _HINTS:
        raise EngineError(
            "OpenVINO does not offer this precision", received=precision, expected="auto, fp32 or bf16"
        )
    if precision == "bf16" and not native:
        raise EngineError(
            "this CPU has no bf16",
            received=", ".join(capabilities),
            expected="BF16",
            fix="Use --precision fp32.",
        )
    return precision


def _shape(port: Any) -> tuple[object, ...]:
    """Return a port's shape; a dynamic axis as text, so that it equals no number."""
    return tuple(d.get_length() if d.is_static else str(d) for d in port.partial_shape)
