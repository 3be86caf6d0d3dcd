"""Everything worth knowing when a GPU is at hand, in one script and ten minutes.

    python benchmarks/gpu.py                      on the GPU, from the root of a checkout
    python benchmarks/gpu.py --device cpu --tiny  toy sizes: that it works
    python benchmarks/gpu.py --prepare graphs/    elsewhere: write the graphs that --graphs brings along

Needs PyTorch and numpy; uses ONNX Runtime, TensorRT, MONAI, nibabel and the others where they are, and says
what is missing. Sections: parity, ladder (latency of a window), whole (end to end), training. A row that was
measured is kept in the state folder: run it again, and it goes on where it stopped. When the time is over,
the rows that are left are named. Ends with a short table and a record.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file

from benchmarks.gpu_parts import standins
from benchmarks.gpu_parts.state import Budget, NotHereError, Result, Row, State
from gcis_runtime.sizes import peak_memory_bytes

if TYPE_CHECKING:
    from benchmarks.gpu_parts.context import Context

SHARES = {"parity": 0.15, "ladder": 0.45, "whole": 0.2, "training": 0.2}
"""Sections in order of worth, and their share of the time."""

RESULTS = Path(__file__).resolve().parent / "results"
Say = Callable[[str], None]


def main(arguments: list[str] | None = None) -> int:
    """Run what is wanted; returns the exit code: 1 where parity does not hold, 2 where nothing can run."""
    options = _options(arguments)
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
    dropped = run_sections(_sections(context, options.only), state, Budget(options.budget, SHARES), say=_say)
    record = _record(options, state, missing=missing, standins_made=made, dropped=dropped)
    for line in table(state.results, dropped):
        _say(line)
    folder = options.out or (state.folder if options.tiny else RESULTS)
    _say(f"record: {_write(record, folder)}")
    wrong = [name for name, result in state.results.items() if result.get("ok") is False]
    if wrong:
        sys.stderr.write(f"gpu.py: parity does not hold: {'; '.join(wrong)}\n")
    return 1 if wrong else 0


def run_sections(
    sections: dict[str, Callable[[], Iterator[Row]]], state: State, budget: Budget, *, say: Say
) -> list[str]:
    """Measure every row that the state lacks while there is time.

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
            result = _measured(measure)
            state.put(name, result)
            say(f"{name}: {_short(result)}")
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


def table(results: dict[str, Result], dropped: list[str]) -> list[str]:
    """Return the short table: a line a row, then what there was no time for."""
    lines = ["", "what was measured"]
    lines += [f"  {_short(result):40}  {name}" for name, result in results.items()]
    return lines + [f"  {'no time left':40}  {name}" for name in dropped]


def _short(result: Result) -> str:
    """Say a row's most telling numbers."""
    for key in ("not_run", "failed"):
        if key in result:
            return f"{key.replace('_', ' ')}: {result[key]}"
    parts = [] if "ok" not in result else ["ok" if result["ok"] else "WRONG"]
    for key, form in (
        ("max_difference", "off by {:.1e}"),
        ("labels_equal", "labels {:.4%}"),
        ("ms_per_window", "{:.2f} ms a window"),
        ("gflops", "{:.0f} GFLOP/s"),
        ("seconds", "{:.2f} s"),
        ("steps_per_second", "{:.2f} steps/s"),
        ("gpu_peak_mb", "{} MB"),
    ):
        if key in result:
            parts.append(form.format(result[key]))
    return ", ".join(parts) or "done"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu.py", description=(__doc__ or "").split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where [cuda]")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: that it works, not what it costs")
    parser.add_argument("--budget", type=float, default=600, help="seconds in which rows may begin [600]")
    parser.add_argument("--only", action="append", choices=tuple(SHARES), help="only this section; repeat")
    parser.add_argument(
        "--state", type=Path, default=Path("runs/gpu"), help="folder to go on from [runs/gpu]"
    )
    parser.add_argument("--graphs", type=Path, help="folder with graphs of --prepare")
    parser.add_argument("--prepare", type=Path, help="write the graphs of parity and batch 1 here, and end")
    parser.add_argument("--bundle", action="append", default=[], help="also this bundle end to end; repeat")
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
    from gcis_runtime.cuda.probe import probe_driver  # noqa: PLC0415 (with the rest of the runtime)

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


def _record(
    options: argparse.Namespace,
    state: State,
    *,
    missing: dict[str, str],
    standins_made: list[str],
    dropped: list[str],
) -> dict[str, Any]:
    from benchmarks.environment import environment  # noqa: PLC0415 (after the stand-ins)

    return {
        "what": "gpu-tiny" if options.tiny else "gpu",
        "environment": environment(),
        "device": options.device,
        "budget_seconds": options.budget,
        "missing": missing,
        "standins": standins_made,
        "no_time_left": dropped,
        "host_peak_mb": round((peak_memory_bytes() or 0) / 1e6),
        "note": "CUDA events after a warm-up, medians, another random input each time; clocks left alone. "
        "Random weights: times, not accuracy; parity is on the conformance cases",
        "rows": state.results,
    }


def _write(record: dict[str, Any], folder: Path) -> Path:
    """Write the record; without msgspec too."""
    from benchmarks.records import hardware  # noqa: PLC0415 (after the stand-ins)
    from gcis_runtime.atomic import replacing  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['what']}_{hardware(record)}_{datetime.date.today():%Y%m%d}.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    return path


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
