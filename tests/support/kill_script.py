"""Run, kill and resume the stub training; test_kill.py starts this script.

python kill_script.py DATA WORK MOMENT...: a fork is killed by SIGKILL at that moment; another one resumes.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from gcis_train.options.training import TrainOptions
from gcis_train.training.loop import run_folder, steps
from gcis_train.weights import checkpoint
from tests.support.stub_training import RUN, trainer


def _killing(function: Callable[..., Any], at: int, *, after: bool = False) -> Callable[..., Any]:
    """Return a function that kills the process at call number `at`."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


def _half_written(tensors: Any, path: Path) -> None:
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(moment: str) -> None:
    """Patch the training so that the process is killed at `moment`."""
    if moment.startswith("step"):  # between the backward pass and the update
        steps.Stepper._update = _killing(steps.Stepper._update, int(moment[4:]))  # type: ignore[method-assign]
    elif moment == "updated":
        steps.Stepper._update = _killing(steps.Stepper._update, 2, after=True)  # type: ignore[method-assign]
    elif moment == "weights":
        save, count = checkpoint.save_file, [0]

        def third(tensors: Any, path: Path) -> None:
            count[0] += 1
            (_half_written if count[0] == 3 else save)(tensors, path)

        checkpoint.save_file = third
    elif moment == "pointer":  # the checkpoint lies there, nothing points to it yet
        run_folder.replacing = _killing(run_folder.replacing, 3)
    elif moment == "prune":
        run_folder.prune = _killing(run_folder.prune, 4)
    elif moment == "metrics":  # the epoch's line is written, its checkpoint is not
        add = run_folder.RunFolder.add_metrics
        run_folder.RunFolder.add_metrics = _killing(add, 1, after=True)  # type: ignore[method-assign]
    elif moment == "validation":
        from gcis_train.training.loop import validation

        validation.validate = _killing(validation.validate, 2)


def _child(work: Callable[[], None]) -> int:
    """Run in a fork, and return the signal that ended it, 0 for success, or -1 for an error."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def _options(moment: str) -> TrainOptions:
    """Return the run's options: a checkpoint every step, or only at the end of an epoch."""
    every = 5.0 if moment in ("step6", "metrics", "validation") else 0.0
    return type(RUN)(**{**{f: getattr(RUN, f) for f in RUN.__struct_fields__}, "save_minutes": every})


def main(data: Path, work: Path, moments: list[str]) -> None:
    """Run the complete training once, then once per moment."""
    if _child(lambda: _finish(data, work / "whole", "none")) != 0:
        sys.exit("the uninterrupted run failed")
    for moment in moments:

        def killed(moment: str = moment) -> None:
            _arm(moment)
            trainer(data, work / moment, _options(moment)).run()

        ended = _child(killed)
        if ended != signal.SIGKILL:
            sys.exit(f"{moment}: ended by {ended}, not by the kill")
        if _child(lambda moment=moment: _finish(data, work / moment, moment)) != 0:
            sys.exit(f"{moment}: the resumed run failed")


def _finish(data: Path, folder: Path, moment: str) -> None:
    if not trainer(data, folder, _options(moment)).run().finished:
        raise RuntimeError("not finished")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
