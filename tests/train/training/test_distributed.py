"""Test that two processes train like one on the whole batch; if one fails, the other raises an error."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gcis_runtime.errors import DataError
from gcis_train.data.datalist import group_cases, read_datalist
from gcis_train.training.distributed import Processes, connected, current, local_device
from gcis_train.training.loop.feed import Feed
from gcis_train.weights import checkpoint
from tests.support.process_script import changed, part_of, routed_step, whole_batch
from tests.support.stub_training import trainer
from tests.support.training_values import PROMPTS, Silent, options, write_cases

SCRIPT = Path(__file__).parents[2] / "support" / "process_script.py"


def _port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    write_cases(folder, 4)
    return folder


@pytest.fixture(scope="module")
def work(data: Path) -> Path:
    """Results of all scenarios, run in forks of one process, because importing torch is slow."""
    folder = data / "work"
    scenarios = [f"{name}:{_port()}" for name in ("routed", "train", "stop", "dead", "nan")]
    command = [sys.executable, str(SCRIPT), str(data), str(folder), *scenarios]
    child = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    assert child.returncode == 0, child.stderr
    return folder


def _seen(folder: Path) -> list[dict[str, Any]]:
    files = [folder / f"rank{rank}.json" for rank in range(2)]
    return [json.loads(f.read_text()) if f.exists() else {} for f in files]


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(work: Path) -> None:
    # Shares are unequal (one window with two rows, two windows with one row), some blocks are sampled by one
    # process only and some by none, and there is a balance term.
    one = routed_step(whole_batch())
    two = [torch.load(work / "routed" / f"weights{rank}.pt", weights_only=True) for rank in range(2)]
    blocks = {n.partition(".conv")[0] for n in one if n.startswith("decoder") and ".blocks." in n}
    sampled = {b for b in blocks if any(n.startswith(f"grad.{b}") for n in one)}
    assert sampled and sampled < blocks
    for theirs in two:
        assert theirs.keys() == one.keys()  # a parameter has a gradient in all of them or in none
        for name in one:
            # A gradient differs in the last digits of the float32 loss; the first step of AdamW turns that
            # into up to 1 % of the rate (1e-3) where a gradient is as small as its epsilon.
            limit = 1e-6 * float(one[name].abs().max()) if name.startswith("grad.") else 1e-5
            assert torch.allclose(one[name], theirs[name], rtol=1e-5, atol=limit), name
    mean_of_means = routed_step(part_of(whole_batch(), slice(0, 1)))
    assert not torch.allclose(one["loss"], mean_of_means["loss"], atol=1e-4)


@pytest.mark.slow
def test_a_run_of_two_is_the_run_of_one_with_twice_the_batch(data: Path, work: Path, tmp_path: Path) -> None:
    first, second = _seen(work / "train")
    alone = trainer(data, tmp_path / "alone", changed(batch_size=2), dropout=False, progress=Silent())
    outcome = alone.run()
    assert first["finished"] and second["finished"]
    assert first["weights"] == second["weights"]
    for name, tensor in alone._objective.net.state_dict().items():
        assert torch.allclose(tensor, torch.tensor(first["weights"][name]), atol=1e-5), name
    assert first["losses"] == pytest.approx(alone._progress.losses, abs=1e-5)  # type: ignore[attr-defined]
    assert first["best"] == second["best"] == outcome.best_dice
    assert second["wrote"] == []
    assert {"checkpoints", "metrics.jsonl", "tensorboard"} <= set(first["wrote"])
    assert checkpoint.load(work / "train" / "run0", prefer="latest").config.provenance["epoch"] == 2


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(work: Path) -> None:
    first, second = _seen(work / "stop")
    assert not first["finished"] and not second["finished"]
    assert len(first["losses"]) == len(second["losses"]) == 4  # agreed on in the step after the signal
    assert checkpoint.load(work / "stop" / "run0", prefer="latest").config.provenance["step"] == 4


@pytest.mark.slow
def test_a_dead_process_ends_the_other_with_an_error_and_a_checkpoint(work: Path) -> None:
    first, second = _seen(work / "dead")
    assert second == {}
    assert "ProcessError: another process of the training has ended" in first["error"]
    assert "--resume" in first["error"]
    assert checkpoint.load(work / "dead" / "run0", prefer="latest").config.provenance["step"] == 3


@pytest.mark.slow
def test_a_bad_loss_in_one_process_is_named_by_it_and_stops_all(work: Path) -> None:
    first, second = _seen(work / "nan")
    assert "the loss is nan at step 0; received a window of another process" in first["error"]
    assert "the loss is nan at step 0; received window of ct" in second["error"]


@pytest.mark.parametrize(
    "changes", [{}, {"batch_of": "cases"}, {"structures_per_case": "one"}, {"batch_size": 2}]
)
def test_shares_of_an_epoch_are_disjoint_and_whole(tmp_path: Path, changes: dict[str, Any]) -> None:
    rows = read_datalist(write_cases(tmp_path, 5))
    cases = group_cases(rows.training, folder=tmp_path)
    run = options(windows_per_case=3, **changes)
    feeds = [Feed(cases, PROMPTS, run, Processes(rank=r, world=3)) for r in range(3)]
    units = 10 if run.structures_per_case == "one" else 5
    seen = [i for feed in feeds for step in range(feed.steps) for i in feed._items(1, step)]
    assert sorted(seen) == list(range(3 * units))
    assert len({feed.steps for feed in feeds}) == 1
    # A process without a window in the last step draws an empty batch.
    sizes = [len(feed._items(1, feeds[0].steps - 1)) for feed in feeds]
    if 0 in sizes:
        empty = feeds[sizes.index(0)].batch(1, feeds[0].steps - 1)
        assert empty.images.shape == (0, 1, 64, 64, 64) and empty.prompts == ()
    # What a window shows does not depend on who draws it.
    alone = Feed(cases, PROMPTS, type(run)(**{**_fields(run), "batch_size": 3 * run.batch_size}))
    mine = [s for feed in feeds for s in feed.batch(0, 0).seeds]
    assert mine == list(alone.batch(0, 0).seeds)


def _fields(run: Any) -> dict[str, Any]:
    return {f: getattr(run, f) for f in run.__struct_fields__}


def test_alone_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with connected(torch.device("cpu"), minutes=1.0) as processes:
        assert processes == current() == Processes(rank=0, world=1)
        tensor = torch.ones(3)
        assert processes.add(tensor) is tensor and tensor.tolist() == [1, 1, 1]


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device(torch.device("cuda")) == torch.device("cuda", 3)
    assert local_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert local_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setenv("WORLD_SIZE", "9999")
    with (
        pytest.raises(DataError, match="fewer GPUs than processes"),
        connected(torch.device("cuda", 9998), minutes=1.0),
    ):
        pass


@pytest.mark.slow
def test_torchrun_pretrains_and_ends_when_a_process_dies(tmp_path: Path) -> None:
    path = write_cases(tmp_path, 2)
    config = tmp_path / "c.yaml"
    config.write_text(
        "network: {feature_size: 12, pathways: 2}\nwindow: {roi: [64, 64, 64]}\nlearning_rate: 1e-3\n"
        "preprocess: {orientation: RAS, spacing: [2, 2, 2]}\nwindows_per_case: 1\nmax_epochs: 1\n"
        "text_weights: random\namp: none\nvalidation_cases: 1\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        _port(),
    ]
    command += ["-m", "gcis_train", "pretrain", "--datalist", str(path), "--config", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(folder: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "--run-dir", str(tmp_path / folder), "--device", "cpu"],
            check=False,
            capture_output=True,
            text=True,
            env=environment,
            timeout=600,
        )

    good = run("good")
    assert good.returncode == 0, good.stderr
    assert good.stdout.count("finished after epoch 1") == 1
    assert checkpoint.load(tmp_path / "good", prefer="latest").config.provenance["step"] == 1
    (tmp_path / "seg1.nii.gz").write_bytes(b"damaged")  # one of the two processes reads it
    bad = run("bad")
    assert bad.returncode != 0 and "the case ct1" in bad.stderr
