"""Run cases in a process of a cluster: the actor of `ray_pool`, which does not depend on Ray itself."""

from __future__ import annotations

import os
import threading
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import msgspec

from gcis_runtime.bundles.bundle import Bundle, open_bundle, read_manifest
from gcis_runtime.bundles.store import DEMO_FOLDER, list_bundles
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import BundleError, ClusterError, GcisError
from gcis_runtime.fleet.pool import Progressed
from gcis_runtime.pages.renderer import check_renderer
from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.pipeline.identity import Identity
from gcis_runtime.pipeline.options import Callbacks
from gcis_runtime.runs.case import read_case, segment_case, write_case
from gcis_runtime.runs.cohort import LocalCohort, LocalExecutor
from gcis_runtime.runs.executor import Model
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outcome import EXPECTED
from gcis_runtime.runs.outputs import Job
from gcis_runtime.runs.resume import finished_report
from gcis_runtime.text import error_text


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a worker opens and computes.

    Attributes:
        bundle: Absolute path of the bundle.
        sha256: Hash of its manifest.
        prompts: Structures to segment.
        engine: The engine.
        options: What to compute and write for each case.
        folder: Working folder of the run, to which its paths are relative.
        relative: Whether a path of the run is relative.
    """

    bundle: Path
    sha256: str
    prompts: tuple[str, ...]
    engine: EngineOptions
    options: RunOptions
    folder: Path
    relative: bool


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An open engine, or the error in one line."""

    identity: Identity | None = None
    notes: tuple[str, ...] = ()
    version: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a case, in a form that other processes can read.

    Attributes:
        report: The encoded report; None if the case failed.
        error: The error in one line.
        unexpected: Name of the type of an error that is a defect of the program, else empty.
        trace: Where the error occurred.
    """

    report: bytes | None = None
    error: str = ""
    unexpected: str = ""
    trace: str = ""


class Worker:
    """An engine in a process of a cluster. Its methods are called in several threads, and do not raise.

    Args:
        order: What to open and compute.
        threads: CPU threads of the engine.
    """

    def __init__(self, order: Order, threads: int) -> None:
        self._order, self._threads = order, threads
        self._stack = ExitStack()
        self._cohort: LocalCohort | None = None
        self._lock = threading.Lock()
        self._progress: dict[str, Progressed] = {}

    def open(self) -> Opened:
        """Open the engine."""
        order = self._order
        try:
            _enter(order)
            if order.options.report_html:
                check_renderer()  # before this node computes cases whose pages it cannot write
            bundle = _find(order)
            engine = replace(order.engine, threads=self._threads)
            model = Model(bundle=bundle, prompts=order.prompts, engine=engine)
            self._cohort = self._stack.enter_context(LocalExecutor().open(model, order.options))
        except Exception as error:
            return Opened(error=_line(error))
        return Opened(
            identity=self._cohort.identity, notes=tuple(self._cohort.notes), version=version("gcis")
        )

    def run(self, job: Job) -> Result:
        """Read, segment and write a case.

        The supervisor removes the report of an earlier run before it passes the case to any worker. A report
        that exists here was therefore written in this run, by a worker that counts as lost: nothing is done
        again, and no report is ever removed.
        """
        try:
            return Result(report=msgspec.json.encode(self._report(job)))
        except Exception as error:
            unexpected = "" if isinstance(error, EXPECTED) else type(error).__name__
            trace = "".join(traceback.format_exception(error))
            return Result(error=error_text(error), unexpected=unexpected, trace=trace)
        finally:
            with self._lock:
                self._progress.pop(job.name, None)

    def _report(self, job: Job) -> object:
        cohort = self._cohort
        if cohort is None:
            raise ClusterError("the worker has no open engine")
        options = cohort.options
        if (known := finished_report(cohort.identity, job, options)) is not None:
            return known
        case = read_case(cohort.segmenter, job, options)
        result = segment_case(cohort.segmenter, case, options, self._callbacks(job))
        if (known := finished_report(cohort.identity, job, options)) is not None:
            return known
        return write_case(case, result, options, keep_report=True)

    def _callbacks(self, job: Job) -> Callbacks:
        def on_forecast(forecast: Forecast) -> None:
            with self._lock:
                self._progress[job.name] = Progressed(case=job.name, forecast=forecast, finished=0, total=0)

        def on_progress(finished: int, total: int) -> None:
            with self._lock:
                known = self._progress.get(job.name)
                forecast = None if known is None else known.forecast
                self._progress[job.name] = Progressed(
                    case=job.name, forecast=forecast, finished=finished, total=total
                )

        return Callbacks(on_progress=on_progress, on_forecast=on_forecast)

    def progress(self) -> list[Progressed]:
        """Return the cases that are computed; forecasts are returned once."""
        with self._lock:
            found = list(self._progress.values())
            self._progress = {p.case: replace(p, forecast=None) for p in found}
        return found


def _enter(order: Order) -> None:
    """Change to the working folder of the run, so that its relative paths name the same files."""
    try:
        os.chdir(order.folder)
    except OSError as error:
        if order.relative:
            raise ClusterError(
                f"the working folder {order.folder} does not exist on this node",
                received=error.strerror,
                fix="Run gcis-run in a folder that all nodes share, or pass absolute paths.",
            ) from error


def _find(order: Order) -> Bundle:
    """Open the bundle of the run, which may be in another folder of this node."""
    folders = [order.bundle, DEMO_FOLDER, *(entry.folder for entry in list_bundles())]
    for folder in folders:
        try:
            if read_manifest(folder)[1] == order.sha256:
                return open_bundle(folder)
        except GcisError:
            continue
    raise BundleError(
        f"the bundle {order.bundle} is not on this node",
        received="no bundle with the same content",
        expected=f"manifest {order.sha256[:12]}",
        fix="Put the bundle into a folder that all nodes share, or into the store of each node.",
    )


def _line(error: Exception) -> str:
    text = error_text(error)
    return text if isinstance(error, EXPECTED) else f"{type(error).__name__}: {text}"
