"""Compare the precisions of a bundle on a GPU of this machine, and store the results for later runs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import Graph, ParityRow
from gcis_runtime.choices import Precision
from gcis_runtime.engines.factory import automatic_engines
from gcis_runtime.engines.machine_rows import store_row
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.engines.parity import LIMITS, Logits, compare
from gcis_runtime.engines.session import Session
from gcis_runtime.errors import EngineError
from gcis_runtime.pipeline.check_windows import Window, windows_of_phantom
from gcis_runtime.pipeline.open_engine import Opener

_SEED = 20_261
"""Phantom of the parity gate."""
_WINDOWS = 3
"""Windows of the phantom; a constant window is added."""
_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
"""Precisions that ONNX Runtime offers on CUDA."""


def check_before_first_run(bundle: Bundle, options: EngineOptions, opener: Opener) -> None:
    """Check fp16 if `"auto"` may select it on this GPU and no result is known, and store the result.

    The reference is float32 on the same GPU. This takes a second or two, once per bundle and machine. If
    a session cannot be opened or fails, nothing is stored, and the run itself reports the error.

    Args:
        bundle: The verified bundle.
        options: The engine of the run.
        opener: Opens sessions.
    """
    if options.device == "cpu" or options.precision != "auto" or options.tf32:
        return
    if all(graph.precision != "fp16" for graph in bundle.manifest.graphs):
        return
    engine = automatic_engines(bundle, options.device)[0] if options.engine == "auto" else options.engine
    if engine != "onnx":
        return
    from gcis_runtime.engines.onnx.cuda_precision import unchecked_graph  # noqa: PLC0415 (slow to import)

    with contextlib.suppress(EngineError):
        graph = unchecked_graph(bundle, options.device)
        if graph is not None:
            check = _Check.on(bundle, "the GPU", _options(options.device, "fp32"), opener)
            check.measure(graph, options.device)


def check_device(bundle: Bundle, device: str, opener: Opener) -> tuple[tuple[ParityRow, bool], ...]:
    """Compare every precision that ONNX Runtime offers on a GPU with float32 on the CPU, and store the rows.

    Args:
        bundle: The verified bundle.
        device: `"cuda"` or `"cuda:1"`.
        opener: Opens sessions.

    Returns:
        One row per precision that the bundle has, and whether it could be stored.

    Raises:
        EngineError: There is no such GPU, or a session cannot be opened.
    """
    check = _Check.on(bundle, "the CPU", _options("cpu", "fp32"), opener)
    return tuple(
        check.measure(graph, device)
        for graph in bundle.manifest.graphs
        if graph.precision in _PRECISIONS and graph.batch == 1
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Check:
    """Windows of a bundle, and the logits of float32 that other precisions are compared with."""

    bundle: Bundle
    opener: Opener
    windows: Sequence[Window]
    name: str
    reference: Sequence[Logits]

    @classmethod
    def on(cls, bundle: Bundle, place: str, options: EngineOptions, opener: Opener) -> _Check:
        """Compute the reference with an engine."""
        windows = check_windows(bundle)
        reference, _ = _answers(opener(bundle, options), windows)
        name = f"ONNX Runtime fp32 on {place}"
        return cls(bundle=bundle, opener=opener, windows=windows, name=name, reference=reference)

    def measure(self, graph: Graph, device: str) -> tuple[ParityRow, bool]:
        """Compare a graph on a GPU with the reference; return the row and whether it could be stored."""
        answers, session = _answers(self.opener(self.bundle, _options(device, graph.precision)), self.windows)
        row = compare(
            f"ONNX Runtime {session.version} on {session.device}",
            answers,
            self.name,
            self.reference,
            precision=graph.precision,
            tolerance=LIMITS[graph.precision],
            graph=graph.file,
        )
        engine = f"{session.name} {session.version}"
        return row, store_row(self.bundle, graph, row, engine=engine, device=device)


def check_windows(bundle: Bundle, each: int = _WINDOWS) -> list[Window]:
    """Return the `each` windows of a phantom with the most voxels of structures, then a constant window."""
    manifest = bundle.manifest
    found = windows_of_phantom(_SEED, manifest.preprocess, manifest.window, each)
    shape = (1, 1, *manifest.window.patch_size)
    return [*found, np.full(shape, manifest.window.padding_value, dtype=np.float32)]


def _answers(session: Session, windows: Sequence[Window]) -> tuple[list[Logits], Session]:
    """Return the logits of each window, and the session, which is closed."""
    try:
        return [np.array(session.run(window), dtype=np.float32) for window in windows], session
    finally:
        session.close()


def _options(device: str, precision: Precision) -> EngineOptions:
    return EngineOptions(engine="onnx", device=device, precision=precision, batch=1, measured_settings=False)
