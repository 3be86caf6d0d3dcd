"""Test peers: all use the same volume and windows; missing and failed peers are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.cli import main
from benchmarks.peers import measure as peers
from benchmarks.peers.run import PEERS, Task, measure
from gcis_runtime.bundles.store import find_bundle

OURS, SWIN, NNUNET = (
    "gcis-run, ONNX Runtime fp32",
    "MONAI SwinUNETR, its sliding window",
    [p for p in PEERS if "nnU" in p],
)


def _task(folder: Path, peer: str) -> Task:
    image = np.random.default_rng(0).integers(-200, 300, (64, 64, 70)).astype(np.int16)
    np.save(folder / "hu.npy", image)
    return Task(
        peer=peer,
        image=str(folder / "hu.npy"),
        bundle=str(find_bundle("demo", ())),
        feature_size=12,
        roi=64,
        overlap=0.0,
        threads=1,
    )


def test_our_runtime_is_measured(tmp_path: Path) -> None:
    found = measure(_task(tmp_path, OURS))
    assert found["seconds"] > 0 and found["cpu_seconds"] > 0 and found["peak_memory_mb"] > 50
    assert found["parameters"] == pytest.approx(14_265_327 / 4, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("peer", [SWIN, "gCIS in PyTorch, MONAI sliding window", *NNUNET])
def test_every_installed_peer_labels_the_image(tmp_path: Path, peer: str) -> None:
    if not all(peers.installed(package) for package in PEERS[peer].needs):
        pytest.skip(f"{peer} is not installed")
    found = measure(_task(tmp_path, peer))  # raises where labels have a different shape from the image
    assert found["parameters"] > 1_000_000 and found["seconds"] > 0


def _run(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *, lacking: str, failing: str = ""
) -> tuple[Any, Any]:
    tasks: list[Task] = []

    def process(task: Task) -> dict[str, Any]:
        tasks.append(task)
        if task.peer == failing:
            return {"failed": "exit -9: killed"}
        numbers = {"seconds": 2.0 + len(tasks), "cpu_seconds": 3.0, "start_seconds": 1.0}
        return numbers | {"peak_memory_mb": 5, "parameters": 6}

    monkeypatch.setattr(peers, "_process", process)
    monkeypatch.setattr(peers, "installed", lambda package: package != lacking)
    monkeypatch.setattr(peers, "write_wide_bundle", lambda *_, **__: None)
    words = ["peers", "--shape", "64", "64", "96", "--rounds", "2", "-o", str(folder)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    (path,) = folder.glob("peers-12-64_*.json")
    return json.loads(path.read_text()), (done.output, tasks)


def test_all_get_the_same_task_in_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record, (output, tasks) = _run(monkeypatch, tmp_path, lacking="nnunetv2")
    names = [name for name in PEERS if name not in NNUNET]
    assert [task.peer for task in tasks] == 2 * names
    assert len({msgspec.structs.replace(task, peer="") for task in tasks}) == 1
    assert record["windows"] == 2 and "random" in record["note"]
    rows = {row["peer"]: row for row in record["rows"]}
    assert rows[names[0]]["seconds_all"] == [3.0, 3.0 + len(names)]
    for name in NNUNET:
        assert rows[name] == {"peer": name, "unavailable": "not installed: nnunetv2"}
    assert "trained weights" in rows["TotalSegmentator"]["unavailable"]
    assert "not run: not installed: nnunetv2" in output and "time and memory only" in output


def test_a_peer_that_fails_is_no_measurement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record, (output, _) = _run(monkeypatch, tmp_path, lacking="totalsegmentator", failing=SWIN)
    rows = {row["peer"]: row for row in record["rows"]}
    assert rows[SWIN] == {"peer": SWIN, "unavailable": "exit -9: killed"}
    assert rows["TotalSegmentator"]["unavailable"] == "not installed: totalsegmentator"
    assert "not run: exit -9: killed" in output
