"""Run a bundle in ONNX Runtime on the CPU, the engine that is always installed."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.engines.graph_choice import choose_graph
from gcis_runtime.engines.onnx.loading import CPU_PROVIDER, as_engine_error, load
from gcis_runtime.errors import EngineError
from gcis_runtime.system.cpus import usable_cpus


class OnnxSession:
    """A bundle's float32 ONNX graph in ONNX Runtime on the CPU; see `Session`.

    ONNX Runtime would also load graphs of other precisions, but it computes them in float32 on the CPU:
    slower and less exactly than the float32 graph. Other precisions are therefore errors.

    Args:
        bundle: The bundle.
        precision: `"fp32"` or `"auto"`.
        threads: CPU threads; None means one per processor that this process may use.
        batch: Largest number of windows per run; None selects the graph with the largest batch.

    Raises:
        EngineError: The precision is not available, or the graph cannot be loaded.
        BundleError: The graph is not the one that the manifest describes.
    """

    def __init__(
        self, bundle: Bundle, *, precision: str = "auto", threads: int | None = None, batch: int | None = 1
    ) -> None:
        self.name, self.version, self.device = "onnx", str(ort.__version__), "cpu"
        self.threads = threads or usable_cpus()
        if precision not in ("auto", "fp32"):
            raise EngineError(
                "ONNX Runtime computes in float32 on the CPU",
                received=f"--precision {precision}",
                expected="auto or fp32",
                fix="Leave --precision out, or use --engine openvino, or a GPU with --device cuda.",
            )
        graph = choose_graph(bundle.manifest, precision="fp32", batch=batch)
        self.precision: str = graph.precision
        self.batch = graph.batch
        self.notes: tuple[str, ...] = ()
        with bundle.graph_source(graph.file) as source:
            self._session: ort.InferenceSession | None = load(
                source, bundle.manifest, [CPU_PROVIDER], threads=self.threads, batch=graph.batch
            )
        self._input, self._output = bundle.manifest.input.name, bundle.manifest.output.name

    def run(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute a batch of windows; see `Session.run`."""
        if self._session is None:
            raise EngineError(
                "the session is closed",
                received="a closed session",
                expected="an open session",
                fix="Open the bundle again.",
            )
        try:
            out: NDArray[np.float32] = self._session.run([self._output], {self._input: window})[0]
        except Exception as error:  # ONNX Runtime's errors derive from Exception alone
            raise as_engine_error(error, "ONNX Runtime failed on a window") from error
        return out

    def close(self) -> None:
        """Free the engine."""
        self._session = None
