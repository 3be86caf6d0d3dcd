"""Test the GPU script on a CPU at toy sizes: missing packages, measurements, and continued runs."""

from __future__ import annotations

import json
import lzma
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu_parts import packages, parity
from benchmarks.gpu_parts.report import OUT_OF_TIME, Report
from benchmarks.gpu_parts.state import CUT_OFF, Budget, NotHereError, Row, State
from benchmarks.gpu_parts.summary import summary
from gcis_runtime.engines.gpu.probe import probe_driver

ROOT = Path(__file__).parents[2]
OPTIONAL = ("nibabel", "open_clip", "click")
RUN = """
import importlib.abc
import sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
from benchmarks.gpu import main
sys.exit(main(sys.argv[1:]))
"""


def _record(state: Path) -> dict[str, Any]:
    (path,) = state.glob("gpu-tiny_*.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def _run_without(blocked: tuple[str, ...], *words: str) -> subprocess.CompletedProcess[str]:
    """Run the script in a process in which packages cannot be imported."""
    code = f"BLOCKED = {blocked!r}\n{RUN}"
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_missing_required_packages_are_listed_with_their_wheels_and_end_with_2(tmp_path: Path) -> None:
    done = _run_without(("monai", "msgspec", "nibabel"), "--device", "cpu", "--state", str(tmp_path / "s"))
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert "monai, for the network" in done.stderr and "msgspec, for" in done.stderr
    assert re.search(r"pip download --no-deps .* -d wheels msgspec monai nibabel packaging", done.stderr)
    assert "--wheelhouse wheels" in done.stderr and not (tmp_path / "s").exists()


@pytest.mark.slow
def test_it_runs_on_a_cpu_without_optional_packages(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--tiny", "--budget", "3600", "--state", str(tmp_path)]
    done = _run_without(OPTIONAL, *words)
    assert done.returncode == 0, done.stderr
    record = _record(tmp_path)
    rows = record["rows"]
    assert "nibabel" in record["missing"] and "missing: nibabel, for" in done.stdout
    assert "pip download --no-deps" in done.stdout
    for way in ("PyTorch", "ONNX Runtime"):
        row = rows[f"parity/small/{way} fp32"]
        assert (
            row["ok"] is True and row["max_difference"] < parity.LIMIT and row["labels_equal"] > parity.LABELS
        )
    ladder = {name.rpartition("/")[2]: row for name, row in rows.items() if name.startswith("ladder/window")}
    published, one = (ladder[f"{way}, eager fp32"] for way in ("published, all pathways", "one pathway"))
    assert published["gflop_per_window"] > 1.2 * one["gflop_per_window"]  # two pathways in place of one
    assert ladder["ONNX Runtime fp32"]["labels_equal"] > 0.99
    assert ladder["ONNX Runtime fp32"]["provider"] == "CPUExecutionProvider"
    assert rows["whole/4 mm/one pathway, PyTorch autocast bf16"]["windows"] == 2
    ours, theirs = (rows[f"training/window 64x32x32/{way}"] for way in ("ours", "published"))
    assert ours["first_loss"] == pytest.approx(theirs["first_loss"], rel=1e-5)
    assert not [name for name, row in rows.items() if "failed" in row]
    for name in ("gcis-run, demo, onnx", "4 mm/gcis-run, process", "2 processes, fp32"):
        assert rows[f"whole/{name}"] == {"not_run": "needs nibabel, click"}
    assert "GPU" in rows["parity/blend/GPU against numpy"]["not_run"]
    assert "GPU" in rows["parity/restore/GPU against numpy"]["not_run"]
    assert "results" in done.stdout and "steps/s" in done.stdout


@pytest.mark.slow
def test_it_runs_on_a_cpu_with_everything(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--tiny", "--budget", "3600", "--state", str(tmp_path)]
    assert gpu.main(words) == 0
    record = _record(tmp_path)
    rows = record["rows"]
    assert not [name for name, row in rows.items() if "failed" in row]
    assert rows["whole/gcis-run, demo, onnx"]["windows"] == 1  # 64 voxels of 4 mm fill one of the bundle
    assert "seconds" in rows["whole/4 mm/gcis-run, process"]
    assert rows["whole/2 processes, fp32"]["exit_codes"] == [0, 0]
    assert rows["whole/4 mm/published, all pathways, PyTorch's defaults"]["windows"] == 2
    first = (tmp_path / "rows.jsonl").read_text()
    assert gpu.main(words) == 0
    assert (tmp_path / "rows.jsonl").read_text() == first  # nothing was measured twice
    assert (
        gpu.main(["--prepare", str(tmp_path / "graphs"), "--tiny", "--state", str(tmp_path / "other")]) == 0
    )
    names = {path.stem for path in (tmp_path / "graphs").iterdir()}
    assert {"parity-small-1-fp32", "ladder-12-64x32x32-b1-fp16"} <= names


@pytest.mark.skipif(probe_driver().problem is None, reason="there is a GPU")
def test_without_a_gpu_it_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--state", str(tmp_path / "state")]) == 2
    out, error = capsys.readouterr()
    assert out == "" and len(error.splitlines()) == 1
    assert "no NVIDIA GPU can be used" in error and "--device cpu --tiny" in error
    assert not (tmp_path / "state").exists()


def _wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def test_packages_of_a_wheelhouse_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    _wheel(tmp_path, "brought_one", {"brought_one.py": "VALUE = 1\n"})
    _wheel(tmp_path, "brought_two", {"brought_two-1.0.data/purelib/brought_two.py": "VALUE = 2\n"})
    assert not packages.found("brought_one")
    folder = packages.add_wheelhouse(tmp_path)
    assert packages.found("brought_one") and packages.found("brought_two") and sys.path[-1] == str(folder)
    (folder / "brought_one.py").write_text("VALUE = 3\n")
    packages.add_wheelhouse(tmp_path)
    assert (folder / "brought_one.py").read_text() == "VALUE = 3\n"  # unpacked once


def test_a_wheelhouse_without_wheels_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--wheelhouse", str(tmp_path)]) == 2
    assert "no .whl file" in capsys.readouterr().err


def _rows(section: str, done: list[str], **measures: Any) -> Iterator[Row]:
    for name, measure in measures.items():
        yield Row(name=f"{section}/{name}", measure=lambda m=measure, n=name: (done.append(n), m())[1])  # type: ignore[misc,func-returns-value]


def test_time_that_is_over_drops_rows_and_a_second_run_goes_on(tmp_path: Path) -> None:
    now = [0.0]
    done: list[str] = []

    def slow() -> dict[str, Any]:
        now[0] += 40
        return {"ok": True}

    def missing() -> dict[str, Any]:
        raise NotHereError("needs a thing")

    def wrong() -> dict[str, Any]:
        raise RuntimeError("CUDA out of memory\nand more")

    rows = [
        *_rows("a", done, one=slow, two=slow),
        *_rows("b", done, four=missing, five=wrong),
        *_rows("a", done, three=slow, last=slow),
    ]

    def run() -> list[str]:
        budget = Budget(100, clock=lambda: now[0])
        return gpu.run_rows(rows, State(tmp_path, {"s": 1}), budget, on_row=lambda line: None)

    assert run() == ["a/last"]  # 120 s are over after three slow rows
    assert done == ["one", "two", "four", "five", "three"]
    now[0] = 0
    assert run() == [] and done[5:] == ["last"]
    results = State(tmp_path, {"s": 1}).results
    assert results["b/four"] == {"not_run": "needs a thing"}
    assert results["b/five"] == {"not_run": "out of memory: CUDA out of memory"}
    report = Report(tmp_path, State(tmp_path, {"s": 1}), [*results, "c/six"], {})
    lines = report.lines()
    assert any("not run: needs a thing" in line for line in lines)
    assert report.left == ["c/six"] and lines[-1].split() == ["no", "time", "left", "c/six"]


def test_what_was_measured_stands_in_the_record_while_the_next_row_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def second() -> dict[str, Any]:
        seen.append(_record(tmp_path))
        return {}

    rows = list(_rows("training", [], one=lambda: {"seconds": 1.0}, two=second))
    monkeypatch.setattr(gpu, "_rows", lambda *_: rows)
    assert gpu.main(["--device", "cpu", "--tiny", "--state", str(tmp_path)]) == 0
    assert seen[0]["rows"] == {"training/one": {"seconds": 1.0}}
    assert seen[0]["no_time_left"] == ["training/two"] and _record(tmp_path)["no_time_left"] == []


def test_the_end_comes_in_the_middle_of_a_row(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from benchmarks.gpu_parts.report import Report
from benchmarks.gpu_parts.state import HardEnd, State

state = State(Path(sys.argv[1]), {})
state.put("a/one", {"seconds": 1.0})
state.begin("a/two")
report = Report(Path(sys.argv[1]), state, ["a/one", "a/two", "a/three"], {})
with HardEnd(0.05, lambda: print("\\n".join(report.lines()), flush=True) or 7):
    time.sleep(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert [line.split("  ")[-1] for line in done.stdout.splitlines()[2:]] == ["a/one", "a/two", "a/three"]
    assert f"failed: {OUT_OF_TIME}" in done.stdout
    assert State(tmp_path, {}).results["a/two"] == {"failed": CUT_OFF}  # a second run goes on behind it


def test_a_row_that_took_the_process_with_it_is_not_tried_again(tmp_path: Path) -> None:
    State(tmp_path, {"s": 1}).begin("a/crash")
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"row": "a/half", "resu')  # cut off while it was written
    state = State(tmp_path, {"s": 1})
    assert state.results == {"a/crash": {"failed": CUT_OFF}}
    with pytest.raises(ValueError, match="other settings"):
        State(tmp_path, {"s": 2})


def test_parity_that_does_not_hold_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parity, "LIMIT", 0.0)
    numbers = {"max_difference": 1e-6, "labels_equal": 1.0}
    rows = [Row(name="parity/x", measure=lambda: parity._judged(numbers, "fp32"))]
    monkeypatch.setattr(gpu, "_rows", lambda *_: rows)
    assert gpu.main(["--device", "cpu", "--tiny", "--state", str(tmp_path)]) == 1
    assert "parity fails: parity/x" in capsys.readouterr().err


def test_another_process_continues_after_a_row_that_ended_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A script replaces gpu.py; it begins a row at each start and ends within the first two rows."""
    script = tmp_path / "gpu.py"
    script.write_text(
        """
import os, sys
from pathlib import Path
file = Path(sys.argv[sys.argv.index("--state") + 1]) / "rows.jsonl"
begun = file.read_text().splitlines() if file.exists() else []
print("began", sys.argv[sys.argv.index("--began") + 1])
if len(begun) == int(sys.argv[sys.argv.index("--budget") + 1]) - 600:
    sys.exit(1)
if "--tiny" not in sys.argv:
    file.write_text("\\n".join([*begun, '{"begun": "a"}']))
os.abort() if begun else os._exit(75)
"""
    )
    monkeypatch.setattr(gpu, "__file__", str(script))
    words = ["--state", str(tmp_path), "--budget"]
    assert gpu.supervise([*words, "602"]) == 1  # parity does not hold, says the third
    out = capfd.readouterr().out
    assert out.count("continuing after that row") == 2
    assert len(set(re.findall("began (.*)", out))) == 1, "one clock for all of them"
    assert gpu.supervise([*words, "609", "--tiny"]) == 1
    assert "run the script again" in capfd.readouterr().err  # it died before it began a row: no endless loop


def test_only_the_first_process_begins_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "main", lambda _words: 11)
    monkeypatch.setattr(gpu, "supervise", lambda _words: 12)
    assert gpu.run(["--tiny"]) == 12
    assert gpu.run(["--tiny", "--began", "1.5"]) == gpu.run(["--prepare", "graphs"]) == 11


def test_a_row_ends_after_its_share_of_the_budget() -> None:
    now = [0.0]
    budget = Budget(100, clock=lambda: now[0])
    row, compiled = Row(name="a/x", measure=dict), Row(name="a/y", measure=dict, share=0.1)
    assert (budget.left_for(row), budget.left_for(compiled)) == (20, 10)
    now[0] = 99
    assert (budget.left_for(row), budget.left()) == (1, 1)
    now[0] = 101
    assert (budget.left_for(row), budget.left()) == (0, 0)


def test_rows_are_measured_by_worth(tmp_path: Path) -> None:
    """Deployed and published ways come before everything else in each section, compilation last."""
    from benchmarks.gpu_parts.context import FULL, Context

    class Cuda:
        """A GPU that is only asked what it is."""

        tiny, cuda = False, True

        def ceiling(self, precision: str) -> None:
            raise AssertionError(precision)

    context = Context(rig=Cuda(), sizes=FULL, graphs=None, wide=None, bundles=(), folder=tmp_path)  # type: ignore[arg-type]
    rows = gpu.by_worth(gpu._rows(context, None))
    names = [row.name for row in rows]
    first = [row.name for row in rows if row.worth == 1]
    assert len(set(names)) == len(names) and names[: len(first)] == first
    assert {row.section for row in rows[: len(first)]} == set(gpu.SECTIONS)
    for name in (
        "parity/small/ONNX Runtime fp16",
        "ladder/window 96, batch 1/ONNX Runtime fp16",
        "ladder/window 96, batch 1/published, all pathways, eager, PyTorch's defaults",
        "whole/1.5 mm/gcis-run, process",
        "whole/1.5 mm/published, all pathways, PyTorch's defaults",
        "training/window 96/published",
    ):
        assert name in first
    assert "whole/1 mm/gcis-run, process" in names[: names.index("parity/two_pathways/PyTorch bf16")]
    trial = names.index("whole/1.5 mm/gcis-run after a trial of settings, process")
    assert all(
        names.index(f"whole/{name}") < trial for name in ("10 processes, fp16", "1.5 mm/gcis-run, stages")
    )
    compiled = [row for row in rows if "torch.compile" in row.name]
    assert compiled and all(row.worth == 3 and row.share == 0.1 for row in compiled)


def test_prepared_weights_can_be_compressed() -> None:
    """Four values per tensor take two bits per weight: a sixth of float16 is enough."""
    from benchmarks.gpu_parts.networks import routed

    net, _ = routed(12, pathways=2)
    weights = [p.detach() for p in net.parameters() if p.dim() > 1]
    assert all(len(weight.unique()) <= 4 for weight in weights)
    data = b"".join(weight.half().numpy().tobytes() for weight in weights)
    assert len(lzma.compress(data)) < len(data) / 6
    kernel = dict(net.named_parameters())["encoder.swin.patch_embed.proj.weight"]
    assert (
        0.9 < float(kernel.detach().std()) / (1 / 8**0.5 / 3**0.5) < 1.1
    )  # that of PyTorch's initialisation


def test_the_table_compares_with_the_ceiling_and_the_published_method() -> None:
    window = "ladder/window 96, batch 1"
    results: dict[str, Any] = {
        "ladder/matrix product/fp16": {"gflops": 800.0},
        f"{window}/ONNX Runtime fp16": {"ms_per_window": 8.0, "gflops": 400.0},
        f"{window}/published, all pathways, eager, PyTorch's defaults": {"ms_per_window": 40.0},
        f"{window}/trt fp16": {"not_run": "not installed"},
        "whole/1 mm/gcis-run, process": {"seconds": 5.0},
        "whole/1 mm/published, all pathways, PyTorch's defaults": {"seconds": 60.0},
        "training/window 96/ours": {"median_ms": 100.0},
        "training/window 96/published": {"median_ms": 250.0},
    }
    shown = [re.split(r"  +", line.strip()) for line in summary(results).splitlines()]
    assert shown[0][-3:] == ["GFLOP/s", "of ceiling", "to published"]
    assert ["window 96, batch 1", "ONNX Runtime fp16", "8.00 ms", "400", "50%", "5.0 x"] in shown
    assert ["end to end, 1 mm", "gcis-run, process", "5.00 s", "12.0 x"] in shown
    assert ["training step, window 96", "ours", "100 ms", "2.5 x"] in shown
    assert not [line for line in shown if "trt fp16" in line]
    assert summary({"parity/x": {"ok": True}}) == ""


@pytest.mark.parametrize("order", ["late", "mixed"])
def test_blending_is_compared_bit_for_bit(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the simulated driver, results are equal, and a single different value is detected."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "runtime"))
    from gcis_runtime.engines.gpu.device import Device
    from tests.support import fake_cuda

    def compared(compare: Any = parity.blend_parity) -> dict[str, Any]:
        driver = fake_cuda.FakeDriver(order, kernels=None)
        return compare(Device(fake_cuda.gpu(), driver), b"compiled")

    assert compared() == {"unequal_values": 0, "ok": True}
    assert compared(parity.restore_parity) == {"unequal_labels": 0, "ok": True}
    whole = parity._whole

    def doctored(*arguments: Any) -> Any:
        margins = whole(*arguments)
        margins[0, 0, 0, 0] += 1e-3
        return margins

    monkeypatch.setattr(parity, "_whole", doctored)
    assert compared() == {"unequal_values": 3, "ok": False}
    monkeypatch.setattr(parity, "_whole", lambda *given: -whole(*given))
    found = compared(parity.restore_parity)
    assert found["unequal_labels"] > 1000 and not found["ok"]


def test_the_options_of_the_guide_exist() -> None:
    text = (ROOT / "docs" / "how-to" / "gpu.md").read_text()
    found = re.findall(r"python benchmarks/gpu\.py([^\n`]*)", text)
    assert len(found) >= 3
    for words in found:
        gpu._options(shlex.split(words))  # argparse ends the process on what it does not know
    for option in set(re.findall(r"`(--(?:budget|state|only|graphs|prepare|bundle|device|tiny))\b", text)):
        assert option in {a for action in gpu._parser()._actions for a in action.option_strings}
    with pytest.raises(SystemExit):
        gpu._options(["--no-such-option"])
