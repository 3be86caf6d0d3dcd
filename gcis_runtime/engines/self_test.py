"""Test a bundle: run one window with every graph and engine that can run on this machine."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import MANIFEST_FILE, MODEL_FILE, Manifest
from gcis_runtime.choices import GRAPH_ENGINES, EngineName, Precision
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.engines.session import Session
from gcis_runtime.errors import EngineError, GcisError

Outcome = Literal["ok", "failed", "cannot run here"]

SLACK = 2.0
"""Factor on the parity gate's limit: a window of noise may differ more than windows of a CT."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine, device, precision and window batch that can run a bundle."""

    engine: EngineName
    device: str
    precision: Precision
    batch: int
    graph: str

    @property
    def name(self) -> str:
        """Display name, such as `onnx fp32` or `trt fp16 (cuda, batch 4)`."""
        where = [*([self.device] if self.device != "cpu" else []), *(self._batches())]
        return f"{self.engine} {self.precision}" + (f" ({', '.join(where)})" if where else "")

    def _batches(self) -> list[str]:
        return [] if self.batch == 1 else [f"batch {self.batch}"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The result of a candidate.

    Attributes:
        candidate: The candidate.
        outcome: `"ok"`, `"failed"`, or `"cannot run here"`.
        problem: Reason of a failure.
        seconds: Time of the run.
        max_abs: Largest difference from the logits of `model.onnx` in ONNX Runtime.
        relative: `max_abs` divided by the largest absolute logit there.
    """

    candidate: Candidate
    outcome: Outcome
    problem: str | None = None
    seconds: float | None = None
    max_abs: float | None = None
    relative: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return values ready for JSON, with the candidate's fields at the top level."""
        flat: dict[str, Any] = asdict(self)
        candidate: dict[str, Any] = flat.pop("candidate")
        return {"name": self.candidate.name} | candidate | flat


def candidates(manifest: Manifest) -> tuple[Candidate, ...]:
    """Return the candidates: `model.onnx` on the CPU, then the engines that the export checked."""
    found = [
        Candidate(engine=engine, device="cpu", precision="fp32", batch=1, graph=MODEL_FILE)
        for engine in GRAPH_ENGINES
    ]
    for e in manifest.engines:
        device = "cpu" if e.backend in GRAPH_ENGINES and e.device == "cpu" else "cuda"
        found.append(
            Candidate(engine=e.backend, device=device, precision=e.precision, batch=e.batch, graph=e.graph)
        )
    return tuple(dict.fromkeys(found))


def try_window(bundle: Bundle) -> tuple[Trial, ...]:
    """Run one window of noise with every graph and engine of a bundle that can run on this machine.

    An engine that cannot be opened cannot run here, except for ONNX Runtime on the CPU, which fails. Logits
    that are not finite, have another shape, or differ from ONNX Runtime's by more than `SLACK` times the
    limit of the parity gate count as a failure.
    """
    shape = bundle.manifest.input.shape
    window = np.random.default_rng(0).random(shape, dtype=np.float32)
    trials: list[Trial] = []
    reference: NDArray[np.float32] | None = None
    for candidate in candidates(bundle.manifest):
        trial, answer = _try(bundle, candidate, window, reference)
        trials.append(trial)
        if reference is None and trial.outcome == "ok":
            reference = answer
    return tuple(trials)


def unlisted_files(bundle: Bundle) -> tuple[str, ...]:
    """Return files in the bundle's folder that its manifest does not list; they are never read."""
    known = {MANIFEST_FILE, *(entry.path for entry in bundle.manifest.files)}
    there = (p.relative_to(bundle.folder).as_posix() for p in _files(bundle.folder))
    return tuple(sorted(name for name in there if name not in known))


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if not p.is_dir()]


def _try(
    bundle: Bundle, candidate: Candidate, window: NDArray[np.float32], reference: NDArray[np.float32] | None
) -> tuple[Trial, NDArray[np.float32] | None]:
    """Test one candidate; also return its logits for the window."""
    try:
        session = _open(bundle, candidate)
    except GcisError as error:
        absent = isinstance(error, EngineError) and (candidate.engine, candidate.device) != ("onnx", "cpu")
        outcome: Outcome = "cannot run here" if absent else "failed"
        return Trial(candidate=candidate, outcome=outcome, problem=str(error)), None
    try:
        start = time.perf_counter()
        answers = np.array(session.run(np.repeat(window, candidate.batch, axis=0)))
        seconds = round(time.perf_counter() - start, 4)
    except GcisError as error:
        return _failed(candidate, str(error)), None
    finally:
        session.close()
    expected = (candidate.batch, *bundle.manifest.output.shape[1:])
    if answers.shape != expected or not np.isfinite(answers).all():
        return _failed(candidate, "the output has the wrong shape or is not finite"), None
    reference = answers[:1] if reference is None else reference
    gap, scale = float(np.abs(answers - reference).max()), float(np.abs(reference).max())
    relative = gap / scale if scale else float(gap > 0)
    found: dict[str, Any] = {"seconds": seconds, "max_abs": gap, "relative": relative}
    limit = _limit(bundle.manifest, candidate)
    if limit is not None and relative > SLACK * limit:
        problem = (
            f"the output differs from ONNX Runtime's by {relative:.3g} of its range, "
            f"limit {SLACK * limit:.3g}"
        )
        return _failed(candidate, problem, **found), None
    return Trial(candidate=candidate, outcome="ok", **found), answers[:1]


def _failed(candidate: Candidate, problem: str, **found: Any) -> Trial:
    return Trial(candidate=candidate, outcome="failed", problem=problem, **found)


def _open(bundle: Bundle, candidate: Candidate) -> Session:
    """Open a candidate's session."""
    options = EngineOptions(
        engine=candidate.engine,
        device=candidate.device,
        precision=candidate.precision,
        batch=candidate.batch,
        measured_settings=False,
    )
    return open_session(bundle, options)


def _limit(manifest: Manifest, candidate: Candidate) -> float | None:
    """Return the parity gate's limit for this graph and precision; None without a row."""
    rows = [r for r in manifest.parity if r.graph == candidate.graph and r.precision == candidate.precision]
    return max((row.limit_relative for row in rows), default=None)
