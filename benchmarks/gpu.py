"""Measure parity, latency, end-to-end time and training on a GPU, in ten minutes.

    python benchmarks/gpu.py                      on the GPU, from the root of a checkout
    python benchmarks/gpu.py --device cpu --tiny  toy sizes, to test the script
    python benchmarks/gpu.py --wheelhouse wheels  import packages from a folder of wheels
    python benchmarks/gpu.py --prepare graphs/    on another machine: write graphs for --graphs

Sections: parity, ladder (latency per window), whole (end to end), training. The most useful rows of all
sections are measured first. Missing packages are listed with the command that downloads their wheels. Each
row is written to the state folder and to the record as soon as it is measured, and a second run continues
after the last row. When the time budget is used up, the script ends, also within a row, and lists the
remaining rows.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file

from benchmarks.gpu_parts import packages
from benchmarks.gpu_parts.report import Report, short
from benchmarks.gpu_parts.state import Budget, HardEnd, NotHereError, Result, Row, State

if TYPE_CHECKING:
    from benchmarks.gpu_parts.context import Context

SECTIONS = ("parity", "ladder", "whole", "training")
"""Sections; of rows with the same worth, those of the first section are measured first."""

AGAIN = 75
"""Exit code of a process that ended within a row while other rows still have time."""
START = 30
"""Minimum number of remaining seconds for which another process is started."""
RESULTS = Path(__file__).resolve().parent / "results"
OnRow = Callable[[str], None]


def main(arguments: list[str] | None = None) -> int:
    """Measure the selected sections.

    Returns:
        Exit code: 0; 1 if parity fails; 2 if nothing can run; 75 if the process ended within a row because
        the time of that row was over, in which case `supervise` starts another process.
    """
    options = _options(arguments)
    started = time.monotonic() if options.began is None else options.began
    try:
        if options.wheelhouse is not None:
            packages.add_wheelhouse(options.wheelhouse)
    except OSError as error:
        return _fail(f"--wheelhouse: {error}; give the folder of pip download -d")
    problem = packages.missing_text() or _gpu_problem(options)
    if problem is not None:
        return _fail(problem)
    missing = packages.missing()
    for name, purpose in missing.items():
        _log(f"missing: {name}, for {purpose}")
    if missing:
        _log(f"for these rows, bring wheels: {packages.download_command(list(missing))}")
    try:
        state = State(options.state.resolve(), _settings(options))
    except ValueError as error:
        return _fail(f"{error}; give another --state, or remove it")
    context = _context(options, state.folder)
    if options.prepare is not None:
        from benchmarks.gpu_parts.prepare import prepare  # noqa: PLC0415 (needs torch)

        prepare(context, options.prepare, on_file=_log)
        return 0
    rows = by_worth(_rows(context, options.only))
    folder = options.out or (state.folder if options.tiny else RESULTS)
    report = Report(folder, state, [row.name for row in rows], _facts(options, missing))
    budget = Budget(options.budget, started=started)

    def cut() -> int:
        if budget.left() > 0:
            report.write()
            return AGAIN
        return _finish(report)

    run_rows(rows, state, budget, on_row=_log, after=report.write, cut=cut)
    return _finish(report)


def run(arguments: list[str]) -> int:
    """Run the command line and return the exit code; a process that `supervise` started starts no other."""
    options = _options(arguments)
    alone = options.began is not None or options.prepare is not None
    return main(arguments) if alone else supervise(arguments)


def supervise(arguments: list[str]) -> int:
    """Run `main` in a separate process, and in a new process after a row ended it; return the exit code.

    A new process does not inherit the errors that a driver or a compiler may leave in the old one.
    """
    options = _options(arguments)
    began, folder = time.monotonic(), options.state.resolve()
    while True:
        rows = State.begun(folder)
        command = [sys.executable, str(Path(__file__).resolve()), *arguments]
        code = subprocess.run([*command, "--began", str(began)], check=False).returncode
        if 0 <= code <= 2:
            return code
        if State.begun(folder) == rows or time.monotonic() - began > options.budget - START:
            _fail(f"the process ended with {code}; run the script again to continue after that row")
            return 1
        _log("a row ended the process: continuing after that row")


def _finish(report: Report) -> int:
    """Print the results and write the record; return the exit code."""
    for line in report.lines():
        _log(line)
    _log(f"record: {report.write()}")
    if report.wrong:
        _fail(f"parity fails: {'; '.join(report.wrong)}")
    return 1 if report.wrong else 0


def by_worth(rows: Iterable[Row]) -> list[Row]:
    """Return rows in the order of measurement: by worth, then as given."""
    return sorted(rows, key=lambda row: row.worth)


def run_rows(
    rows: Sequence[Row],
    state: State,
    budget: Budget,
    *,
    on_row: OnRow,
    after: Callable[[], object] = lambda: None,
    cut: Callable[[], int] = lambda: AGAIN,
) -> list[str]:
    """Measure every row without a result in the state while there is time.

    Args:
        rows: Rows in the order of measurement.
        state: Stores the results.
        budget: End of the run, and of each row.
        on_row: Called with a line of text per row.
        after: Called after each row.
        cut: Called before the process ends because a row exceeded its share of the time; returns the code.

    Returns:
        Names of the rows that were not started.
    """
    dropped = []
    for row in rows:
        if row.name in state.results:
            continue
        if budget.left() <= 0:
            dropped.append(row.name)
            continue
        state.begin(row.name)
        with HardEnd(budget.left_for(row), cut):
            result = _measured(row.measure)
        state.put(row.name, result)
        on_row(f"{row.name}: {short(result)}")
        after()
    return dropped


def _measured(measure: Callable[[], Result]) -> Result:
    """Measure a row; a missing package or an error is a result too, and the next row follows."""
    try:
        return measure()
    except NotHereError as error:
        return {"not_run": str(error)}
    except Exception as error:  # any error of a driver, a compiler or an engine: the next row follows
        line = (str(error).strip().splitlines() or [""])[0][:300]
        memory = "out of memory" in str(error).lower()
        return (
            {"not_run": f"out of memory: {line}"} if memory else {"failed": f"{type(error).__name__}: {line}"}
        )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu.py", description=(__doc__ or "").split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="device [cuda]")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to test the script")
    parser.add_argument("--budget", type=float, default=600, help="seconds for the whole run [600]")
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, help="only this section; repeat for more"
    )
    parser.add_argument(
        "--state", type=Path, default=Path("runs/gpu"), help="folder of the results so far [runs/gpu]"
    )
    parser.add_argument("--graphs", type=Path, help="folder that --prepare wrote")
    parser.add_argument("--prepare", type=Path, help="only write graphs and a bundle for --graphs")
    parser.add_argument(
        "--bundle", action="append", default=[], help="also measure this bundle end to end; repeat"
    )
    parser.add_argument("--wheelhouse", type=Path, help="folder of wheels to import packages from")
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)  # by the monotonic clock
    parser.add_argument("-o", "--out", type=Path, help="folder of the record [benchmarks/results]")
    return parser


def _gpu_problem(options: argparse.Namespace) -> str | None:
    """Return why no GPU can be used; None if one can, or if none is needed."""
    if options.device == "cpu" or options.prepare is not None:
        return None
    import torch  # noqa: PLC0415 (after the wheelhouse)

    if torch.cuda.is_available():
        return None
    from gcis_runtime.engines.gpu.probe import probe_driver  # noqa: PLC0415 (after the wheelhouse)

    why = probe_driver().problem or f"PyTorch {torch.__version__} cannot use the GPU that the driver shows"
    return f"no NVIDIA GPU can be used: {why}; --device cpu --tiny tests the script without one"


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that results depend on."""
    import torch  # noqa: PLC0415 (after the wheelhouse)

    gpu = torch.cuda.get_device_name() if options.device == "cuda" and torch.cuda.is_available() else None
    return {
        "device": options.device,
        "gpu": gpu,
        "tiny": options.tiny,
        "torch": torch.__version__,
    }


def _context(options: argparse.Namespace, folder: Path) -> Context:
    from benchmarks.gpu_parts.context import FULL, TINY, Context  # noqa: PLC0415 (needs torch)
    from benchmarks.gpu_parts.networks import Graphs  # noqa: PLC0415
    from benchmarks.gpu_parts.processes import WIDE  # noqa: PLC0415
    from benchmarks.gpu_parts.rig import Rig  # noqa: PLC0415

    device = "cpu" if options.prepare is not None else options.device
    wide = "demo" if options.tiny else None if options.graphs is None else options.graphs / WIDE
    return Context(
        rig=Rig(device, tiny=options.tiny),
        sizes=TINY if options.tiny else FULL,
        graphs=Graphs(options.graphs, options.prepare or folder / "graphs"),
        wide=wide,
        bundles=tuple(options.bundle),
        folder=folder,
    )


def _rows(context: Context, only: list[str] | None) -> list[Row]:
    from benchmarks.gpu_parts import ladder, parity, training, whole  # noqa: PLC0415 (need torch)

    modules = {"parity": parity, "ladder": ladder, "whole": whole, "training": training}
    return [row for name in SECTIONS if only is None or name in only for row in modules[name].rows(context)]


def _facts(options: argparse.Namespace, missing: dict[str, str]) -> dict[str, Any]:
    from gcis_runtime.latency.environment import environment  # noqa: PLC0415 (after the wheelhouse)

    return {
        "what": "gpu-tiny" if options.tiny else "gpu",
        "environment": environment(),
        "device": options.device,
        "budget_seconds": options.budget,
        "missing": missing,
    }


def _fail(message: str) -> int:
    """Print an error and return exit code 2."""
    sys.stderr.write(f"gpu.py: {message}\n")
    return 2


def _log(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
