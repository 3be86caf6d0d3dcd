"""Test interruption by a kill, a full disk, an invalid case or loss: a run resumes or names the cause."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gcis_runtime.errors import CheckpointError, DataError
from gcis_train.training.loop.run_folder import Scalars
from gcis_train.training.objectives import Batch
from gcis_train.weights import checkpoint
from tests.support.stub_training import RUN, StubObjective, steps_of, trainer
from tests.support.training_values import equal_states, write_cases

MOMENTS = ["step1", "step6", "updated", "weights", "pointer", "prune", "metrics", "validation"]
SCRIPT = Path(__file__).parents[3] / "support" / "kill_script.py"


def _metrics(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    measured = {"seconds", "windows_per_second", "peak_memory_gb"}
    return [{k: v for k, v in json.loads(line).items() if k not in measured} for line in lines]


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_as_the_uninterrupted_one(tmp_path: Path) -> None:
    write_cases(tmp_path, 2)
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(tmp_path / "runs"), *MOMENTS]
    child = subprocess.run(command, check=False, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    whole = tmp_path / "runs" / "whole"
    losses = dict(steps_of(whole))
    assert sorted(losses) == list(range(1, 9)) and len(set(losses.values())) == 8
    end = checkpoint.load(whole, prefer="latest")
    for moment in MOMENTS:
        folder = tmp_path / "runs" / moment
        steps = steps_of(folder)
        assert all(losses[step] == loss for step, loss in steps), moment
        assert {step for step, _ in steps} == set(losses), moment
        found = checkpoint.load(folder, prefer="latest")
        assert equal_states(found.weights, end.weights), moment
        assert found.config == end.config, moment
        assert _metrics(folder) == _metrics(whole), moment
        best = checkpoint.load(folder)
        assert equal_states(best.weights, checkpoint.load(whole).weights), moment
        kept = {f"checkpoints/{p.name}" for p in (folder / "checkpoints").iterdir()}
        assert kept == set(checkpoint.read_pointer(folder).values()), moment


def test_a_full_disk_stops_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    write_cases(tmp_path, 2)
    folder = tmp_path / "run"
    run = type(RUN)(**{**{f: getattr(RUN, f) for f in RUN.__struct_fields__}, "save_minutes": 0.0})
    made = trainer(tmp_path, folder, run)

    class Filling:
        """Limit files to 300 bytes from the fourth step on, as a full disk would."""

        def __getattr__(self, name: str) -> object:
            return getattr(progress, name)

        def step(self, **values: object) -> None:
            progress.step(**values)  # type: ignore[arg-type]
            if values["step"] == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))

    progress = made._progress
    made._progress = Filling()  # type: ignore[assignment]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CheckpointError, match=r"cannot be written; received .*Free space.*intact"):
            made.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(folder, prefer="latest").config.provenance["step"] == 3
    assert not [p for p in (folder / "checkpoints").iterdir() if p.name.startswith(".")]
    resumed = trainer(tmp_path, folder, run)
    assert resumed.run().finished
    trainer(tmp_path, tmp_path / "whole", run).run()
    ends = [checkpoint.load(tmp_path / name, prefer="latest").weights for name in ("run", "whole")]
    assert equal_states(*ends)


def test_a_bad_case_in_the_middle_is_named_and_what_was_trained_is_saved(tmp_path: Path) -> None:
    write_cases(tmp_path, 3)
    good = (tmp_path / "seg2.nii.gz").read_bytes()
    (tmp_path / "seg2.nii.gz").write_bytes(good[:50])
    made = trainer(tmp_path, tmp_path / "run")
    with pytest.raises(DataError, match=r"case ct2"):
        made.run()
    done = made._at.step
    assert checkpoint.load(tmp_path / "run", prefer="latest").config.provenance["step"] == done
    (tmp_path / "seg2.nii.gz").write_bytes(good)
    assert trainer(tmp_path, tmp_path / "run").run().finished
    trainer(tmp_path, tmp_path / "whole").run()
    ends = [checkpoint.load(tmp_path / name, prefer="latest").weights for name in ("run", "whole")]
    assert equal_states(*ends)


def test_without_a_case_the_epoch_begins_again(tmp_path: Path) -> None:
    path = write_cases(tmp_path, 3)
    good = (tmp_path / "seg2.nii.gz").read_bytes()
    (tmp_path / "seg2.nii.gz").write_bytes(good[:50])
    made = trainer(tmp_path, tmp_path / "run")
    while True:  # the order is the seed's: go on until a step was trained before the bad case
        with pytest.raises(DataError, match="case ct2"):
            made.run()
        break
    rows = json.loads(path.read_text())
    rows["training"] = [r for r in rows["training"] if r["image"] != "ct2.nii.gz"]
    path.write_text(json.dumps(rows))
    resumed = trainer(tmp_path, tmp_path / "run")
    if made._at.step:
        assert any("restarts" in line for line in resumed._progress.lines)  # type: ignore[attr-defined]
    assert resumed.run().finished


def test_a_gradient_that_is_not_finite_changes_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cases(tmp_path, 2)
    made = trainer(tmp_path, tmp_path / "run")
    weights = {n: t.clone() for n, t in made._objective.net.state_dict().items()}

    def steep(self: StubObjective, batch: Batch, *, done: float) -> object:
        (term,) = honest(self, batch, done=done)
        # Zero in value, infinite in slope: the loss looks good.
        root = (self.net.conv.bias * 0).abs().sqrt().sum()  # type: ignore[union-attr, operator]
        return (type(term)(total=term.total + root, count=term.count),)

    honest = StubObjective.loss
    monkeypatch.setattr(StubObjective, "loss", steep)
    with pytest.raises(DataError, match=r"gradient norm is (nan|inf) at step 0; received window of ct\d"):
        made.run()
    assert equal_states(made._objective.net.state_dict(), weights)


def test_checkpoints_to_keep(tmp_path: Path) -> None:
    write_cases(tmp_path, 1)
    run = type(RUN)(
        **{**{f: getattr(RUN, f) for f in RUN.__struct_fields__}, "max_epochs": 4, "save_every": 2}
    )
    trainer(tmp_path, tmp_path / "run", run).run()
    pointer = checkpoint.read_pointer(tmp_path / "run")
    assert {r for r in pointer if r.startswith("epoch-")} == {"epoch-2", "epoch-4"}
    kept = checkpoint.load(tmp_path / "run" / pointer["epoch-2"])
    assert kept.config.provenance["epoch"] == 2


def test_metrics_of_a_dropped_epoch_and_half_a_line_go(tmp_path: Path) -> None:
    write_cases(tmp_path, 1)
    folder = tmp_path / "run"
    trainer(tmp_path, folder).run()
    whole = _metrics(folder)
    with (folder / "metrics.jsonl").open("a") as handle:
        handle.write('{"epoch": 3, "loss": 1}\n{"epo')
    trainer(tmp_path, folder)
    assert _metrics(folder) == whole and len(whole) == 2


def test_curves_are_tensorboards_and_a_killed_process_later_steps_are_dropped(tmp_path: Path) -> None:
    first = Scalars(tmp_path, first_step=0)
    for step in range(1, 5):
        first.add("train/loss", step / 10, step)
    # Not closed: what was added is on disk. The next process goes on after step 2.
    next((tmp_path / "tensorboard").iterdir()).rename(tmp_path / "tensorboard" / "events.out.tfevents.1.x.1")
    second = Scalars(tmp_path, first_step=3)
    second.add("train/loss", 9.0, 3)
    second.close()
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in log.Scalars("train/loss")] == [
        (1, pytest.approx(0.1)),
        (2, pytest.approx(0.2)),
        (3, 9.0),
    ]
    first.close()


def test_curves_that_cannot_be_written_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").touch()
    with pytest.raises(CheckpointError, match=r"TensorBoard scalars.*received File exists"):
        Scalars(tmp_path, first_step=0)
