"""Run a trial of settings in child processes, and store the result for this machine.

An error of CUDA may end a process or leave its context unusable. Candidates are therefore measured in a child
process. If the process ends at a candidate, that candidate failed, and a new process measures the next ones.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.engines.gpu.probe import require_gpu
from gcis_runtime.engines.onnx.cuda_open import trial_precision
from gcis_runtime.engines.onnx.cuda_settings import CudaSettings, Outcome, candidates, plain_settings
from gcis_runtime.engines.onnx.measured_settings import MeasuredSettings, store_settings
from gcis_runtime.errors import EngineError, OutputError
from gcis_runtime.pipeline.trial.measure import out_of_time
from gcis_runtime.pipeline.trial.task import COMMAND, READY, Task
from gcis_runtime.system.private_cache import open_cache_beside
from gcis_runtime.text import printable

SECONDS = 60.0
"""Time after which no further settings are measured."""
GRACE = 30.0
"""Seconds after this time that the candidate in progress may take."""


def run_trial(
    bundle: Bundle, device: str, *, seconds: float = SECONDS, command: Sequence[str] = COMMAND
) -> MeasuredSettings:
    """Measure the settings of ONNX Runtime on a GPU, choose from them, and store the result.

    The precision is the one that `--precision auto` selects.

    Args:
        bundle: The verified bundle.
        device: `"cuda"` or `"cuda:1"`.
        seconds: Time after which no further settings are measured.
        command: Arguments of the interpreter for a process that measures a task.

    Raises:
        EngineError: There is no such GPU, or the plain settings do not work.
        OutputError: The result cannot be stored.
    """
    require_gpu(device)
    if open_cache_beside(bundle.folder) is None:
        raise _not_stored(bundle)
    manifest, precision = bundle.manifest, trial_precision(bundle, device, "auto")
    task = Task(
        bundle=str(bundle.folder.resolve()),
        sha256=bundle.sha256,
        device=device,
        precision=precision,
        plain=plain_settings(manifest, precision=precision),
        candidates=candidates(manifest, precision=precision),
        seconds=seconds,
    )
    outcomes = tuple(_outcomes(task, command))
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    record = MeasuredSettings.of(outcomes, task.plain, precision=precision, date=today)
    if not store_settings(bundle, record, device=device):
        raise _not_stored(bundle)
    return record


def _not_stored(bundle: Bundle) -> OutputError:
    return OutputError(
        "the result of a trial cannot be stored",
        received=f"no folder for {bundle.folder.name}.cache or $GCIS_HOME/cache that only you can write to",
        fix="Set GCIS_HOME to a folder of yours with free space.",
    )


def _outcomes(task: Task, command: Sequence[str]) -> list[Outcome]:
    """Return one outcome per candidate of a task, in their order.

    Raises:
        EngineError: The plain settings do not work.
    """
    begun, found, pending = time.monotonic(), list[Outcome](), list(task.candidates)
    while pending:
        left = task.seconds - (time.monotonic() - begun)
        if left <= 0:
            return found + _failed(pending, out_of_time(task.seconds))
        process = _Process.run(
            msgspec.structs.replace(task, candidates=tuple(pending), seconds=left), command
        )
        if not process.ready and not found:
            raise EngineError(
                "the plain settings of ONNX Runtime do not work on this GPU",
                received=process.problem,
                fix="`gcis-bundle doctor` shows the driver and the engines.",
            )
        found += process.outcomes
        del pending[: len(process.outcomes)]
        # A process that is not ready after another one failed: the GPU does not work any more.
        last = pending[:1] if process.ready else pending
        found += _failed(last, process.problem)
        del pending[: len(last)]
    return found


def _failed(candidates: Sequence[CudaSettings], problem: str) -> list[Outcome]:
    return [Outcome(settings=settings, problem=problem) for settings in candidates]


@dataclass(frozen=True, kw_only=True)
class _Process:
    """What a process measured.

    Attributes:
        ready: Whether the plain settings worked.
        outcomes: Outcomes of the first candidates.
        problem: Why the process did not measure all of them; of no meaning if it did.
    """

    ready: bool
    outcomes: list[Outcome]
    problem: str

    @classmethod
    def run(cls, task: Task, command: Sequence[str]) -> _Process:
        """Measure a task in one process."""
        late = threading.Event()
        with tempfile.TemporaryFile() as printed:
            child = subprocess.Popen(
                [sys.executable, "-P", *command],  # -P: nothing is imported from the working directory
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(_import_path())},
            )

            def end() -> None:
                late.set()
                child.kill()

            timer = threading.Timer(task.seconds + GRACE, end)
            with child:
                timer.start()
                try:
                    ready, outcomes, complaint = _read(child, task)
                    if complaint:
                        child.kill()
                    child.wait()
                finally:
                    timer.cancel()
                    child.kill()  # also after Ctrl-C
            problem = complaint or _reason(child.returncode, _last_line(printed))
        if late.is_set():
            problem = f"took more than {GRACE:.0f} s at the end of the trial"
        return cls(ready=ready, outcomes=outcomes, problem=problem)


def _import_path() -> list[str]:
    """Return where a process finds this package and its dependencies, also in a checkout."""
    package = str(Path(__file__).parents[3])
    return [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), package]


def _read(child: subprocess.Popen[bytes], task: Task) -> tuple[bool, list[Outcome], str]:
    """Send the task and read the outcomes.

    Returns:
        Whether the plain settings worked, the outcomes in the order of the candidates, and a complaint about
        output that cannot be read.
    """
    ready, outcomes = False, list[Outcome]()
    with contextlib.suppress(BrokenPipeError), _pipe(child.stdin) as sent:  # a process that ended at once
        sent.write(msgspec.json.encode(task))
    for line in _pipe(child.stdout):
        if line.rstrip() == READY.encode():
            ready = True
            continue
        try:
            outcome = msgspec.json.decode(line, type=Outcome)
        except msgspec.DecodeError:
            return ready, outcomes, "the process printed something else than an outcome"
        if outcome.settings not in task.candidates[len(outcomes) :][:1]:
            return ready, outcomes, "the process measured other settings"
        outcomes.append(outcome)
    return ready, outcomes, ""


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise EngineError("the process of the trial has no pipes")
    return pipe


def _reason(code: int, line: str) -> str:
    """Return why a process ended, from its exit code and its last line on standard error."""
    if code >= 0:
        return line or f"the process of the trial ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"the process was ended by {name}" + (f": {line}" if line else "")


def _last_line(printed: IO[bytes]) -> str:
    printed.seek(0)
    lines = printed.read().decode(errors="replace").strip().splitlines()
    return printable(re.sub(r"^[\w.-]+: error: ", "", lines[-1]))[:200] if lines else ""
