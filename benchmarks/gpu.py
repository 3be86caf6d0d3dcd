"""Everything worth knowing when a GPU is at hand, in one script and ten minutes.

    python benchmarks/gpu.py                      on the GPU, from the root of a checkout
    python benchmarks/gpu.py --device cpu --tiny  toy sizes: that it works
    python benchmarks/gpu.py --prepare graphs/    elsewhere: write the graphs that --graphs brings along

Needs PyTorch and numpy; uses ONNX Runtime, TensorRT, MONAI, nibabel and the others where they are, and says
what is missing. Sections: parity, ladder (latency of a window), whole (end to end), training. A row that was
measured is kept in the state folder and in the record at once: run it again, and it goes on where it stopped.
When the time is over it ends, in the middle of a row too, and names what is left. Ends with a short table.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file

from benchmarks.gpu_parts import standins
from benchmarks.gpu_parts.report import Report, short
from benchmarks.gpu_parts.state import Budget, HardEnd, NotHereError, Result, Row, State

if TYPE_CHECKING:
    from benchmarks.gpu_parts.context import Context

SHARES = {"parity": 0.15, "ladder": 0.45, "whole": 0.2, "training": 0.2}
"""Sections in order of worth, and their share of the time."""

AGAIN = 75
"""Exit code of a process that ended in the middle of a row, with time left for others."""
START = 30
"""Seconds that must be left for another process to be worth its start."""
RESULTS = Path(__file__).resolve().parent / "results"
Say = Callable[[str], None]


def main(arguments: list[str] | None = None) -> int:
    """Run what is wanted; returns the exit code.

    0; 1 where parity does not hold; 2 where nothing can run. When a section's time is over in the middle of a
    row the process ends with 75, and another one goes on behind the row: see `supervise`.
    """
    options = _options(arguments)
    started = time.monotonic() if options.began is None else options.began
    problem = _problem(options)
    if problem is not None:
        sys.stderr.write(f"gpu.py: {problem}\n")
        return 2
    missing = standins.missing()
    made = standins.install()
    for name, purpose in missing.items():
        _say(f"missing: {name}, for {purpose}")
    try:
        state = State(options.state.resolve(), _settings(options, made))
    except ValueError as error:
        sys.stderr.write(f"gpu.py: {error}; give another --state, or remove it\n")
        return 2
    context = _context(options, state.folder)
    if options.prepare is not None:
        return _prepare(context, options)
    sections = _sections(context, options.only)
    folder = options.out or (state.folder if options.tiny else RESULTS)
    names = [name for rows in sections.values() for name, _ in rows()]
    report = Report(folder, state, names, _facts(options, missing=missing, standins_made=made))
    budget = Budget(options.budget, {name: SHARES[name] for name in sections}, started=started)

    def cut() -> int:
        if budget.left_in_all() > 0:
            report.write()
            return AGAIN
        return _finish(report)

    run_sections(sections, state, budget, say=_say, after=report.write, cut=cut)
    return _finish(report)


def run(arguments: list[str]) -> int:
    """Do what the command line says; returns the exit code. What `supervise` began begins no other."""
    options = _options(arguments)
    alone = options.began is not None or options.prepare is not None
    return main(arguments) if alone else supervise(arguments)


def supervise(arguments: list[str]) -> int:
    """Run `main` in a process of its own, and in another when a row took that with it; returns the exit code.

    What a driver or a compiler did to one process, such as an error that stays on the GPU, the next has not.
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
            sys.stderr.write(
                f"gpu.py: the process ended with {code}; run it again to go on behind that row\n"
            )
            return 1
        _say("a row took the process with it: going on behind it")


def _finish(report: Report) -> int:
    """Say what was measured, and write it; returns the exit code."""
    for line in report.lines():
        _say(line)
    _say(f"record: {report.write()}")
    if report.wrong:
        sys.stderr.write(f"gpu.py: parity does not hold: {'; '.join(report.wrong)}\n")
    return 1 if report.wrong else 0


def run_sections(
    sections: dict[str, Callable[[], Iterator[Row]]],
    state: State,
    budget: Budget,
    *,
    say: Say,
    after: Callable[[], object] = lambda: None,
    cut: Callable[[], int] = lambda: AGAIN,
) -> list[str]:
    """Measure every row that the state lacks while there is time.

    Args:
        sections: Rows of each section.
        state: Keeps results.
        budget: Until when each section may begin a row.
        say: Told of each row.
        after: Called after each row.
        cut: Called before the process ends when a row goes far beyond its section's time; returns the code.

    Returns:
        Names of the rows that there was no time for.
    """
    dropped = []
    for section, rows in sections.items():
        for name, measure in rows():
            if name in state.results:
                continue
            if budget.left(section) <= 0:
                dropped.append(name)
                continue
            state.begin(name)
            with HardEnd(budget.left_to_end(section), cut):
                result = _measured(measure)
            state.put(name, result)
            say(f"{name}: {short(result)}")
            after()
    return dropped


def _measured(measure: Callable[[], Result]) -> Result:
    """Measure a row; what it cannot have or what goes wrong is a result too, and the next row's turn."""
    try:
        return measure()
    except NotHereError as error:
        return {"not_run": str(error)}
    except Exception as error:  # whatever a driver, a compiler or an engine raises: the run goes on
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
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where [cuda]")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: that it works, not what it costs")
    parser.add_argument("--budget", type=float, default=600, help="seconds of the whole run [600]")
    parser.add_argument("--only", action="append", choices=tuple(SHARES), help="only this section; repeat")
    parser.add_argument(
        "--state", type=Path, default=Path("runs/gpu"), help="folder to go on from [runs/gpu]"
    )
    parser.add_argument("--graphs", type=Path, help="folder with graphs of --prepare")
    parser.add_argument("--prepare", type=Path, help="write the graphs of parity and batch 1 here, and end")
    parser.add_argument("--bundle", action="append", default=[], help="also this bundle end to end; repeat")
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)  # by the monotonic clock
    parser.add_argument("-o", "--out", type=Path, help="folder of the record [benchmarks/results]")
    return parser


def _problem(options: argparse.Namespace) -> str | None:
    """Return why nothing can run."""
    lacking = [name for name in ("numpy", "torch") if importlib.util.find_spec(name) is None]
    if lacking:
        return f"needs {' and '.join(lacking)}"
    if options.device == "cpu" or options.prepare is not None:
        return None
    import torch  # noqa: PLC0415 (known to be there now)

    if torch.cuda.is_available():
        return None
    from gcis_runtime.engines.gpu.probe import probe_driver  # noqa: PLC0415 (with the rest of the runtime)

    why = probe_driver().problem or f"PyTorch {torch.__version__} cannot use the GPU that the driver shows"
    return f"no NVIDIA GPU can be used: {why}; --device cpu --tiny tries the script without one"


def _settings(options: argparse.Namespace, made: list[str]) -> dict[str, Any]:
    """Return what results depend on."""
    import torch  # noqa: PLC0415 (known to be there)

    gpu = torch.cuda.get_device_name() if options.device == "cuda" and torch.cuda.is_available() else None
    return {
        "device": options.device,
        "gpu": gpu,
        "tiny": options.tiny,
        "torch": torch.__version__,
        "standins": made,
    }


def _context(options: argparse.Namespace, folder: Path) -> Context:
    from benchmarks.gpu_parts.context import FULL, TINY, Context  # noqa: PLC0415 (needs torch, stand-ins)
    from benchmarks.gpu_parts.networks import Graphs  # noqa: PLC0415
    from benchmarks.gpu_parts.rig import Rig  # noqa: PLC0415

    device = "cpu" if options.prepare is not None else options.device
    return Context(
        rig=Rig(device, tiny=options.tiny),
        sizes=TINY if options.tiny else FULL,
        graphs=Graphs(options.graphs, options.prepare or folder / "graphs"),
        bundles=tuple(options.bundle),
        folder=folder,
    )


def _sections(context: Context, only: list[str] | None) -> dict[str, Callable[[], Iterator[Row]]]:
    from benchmarks.gpu_parts import ladder, parity, training, whole  # noqa: PLC0415 (need torch, stand-ins)

    every = {"parity": parity, "ladder": ladder, "whole": whole, "training": training}
    return {
        name: lambda module=module: module.rows(context)  # type: ignore[misc]
        for name, module in every.items()
        if only is None or name in only
    }


def _prepare(context: Context, options: argparse.Namespace) -> int:
    """Write the graphs that a machine without onnx and onnxscript can be given."""
    from benchmarks.gpu_parts.context import text  # noqa: PLC0415 (needs torch, stand-ins)
    from benchmarks.gpu_parts.networks import Conformance, routed, static  # noqa: PLC0415

    for case in ("small",) if options.tiny else ("small", "two_pathways"):
        prompts = 1 if options.tiny else None
        net = Conformance(case, prompts=prompts).static
        for precision in ("fp32", "fp16", "bf16"):
            name = f"parity-{case}{'-1' if options.tiny else ''}-{precision}"
            context.graphs.get(name, net.cpu, (64, 64, 64), 1, precision)
            _say(f"{options.prepare / name}.onnx")
    sizes = context.sizes
    seeded = static(*routed(sizes.feature_size, pathways=sizes.pathways))
    for roi in sizes.windows:
        for precision in ("fp16", "fp32"):
            name = f"ladder-{sizes.feature_size}-{text(roi)}-b1-{precision}"
            context.graphs.get(name, seeded.cpu, roi, 1, precision)
            _say(f"{options.prepare / name}.onnx")
    return 0


def _facts(
    options: argparse.Namespace, *, missing: dict[str, str], standins_made: list[str]
) -> dict[str, Any]:
    from gcis_runtime.latency.environment import environment  # noqa: PLC0415 (after the stand-ins)

    return {
        "what": "gpu-tiny" if options.tiny else "gpu",
        "environment": environment(),
        "device": options.device,
        "budget_seconds": options.budget,
        "missing": missing,
        "standins": standins_made,
    }


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
