"""Test pretraining and warm start for a few steps: kill and resume, start from a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gcis_runtime.errors import CheckpointError
from gcis_train.nets.network import GcisNet
from gcis_train.nets.pathway import spread
from gcis_train.training.run import initialise_network
from gcis_train.training.warmstart import warm_start
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import CheckpointConfig
from tests.support.short_training import RUN, deterministic, make_material, make_run, pretrain
from tests.support.training_values import PROMPTS, Silent, equal_states, options, write_cases

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from tests.support.training_values import Silent
from tests.support.short_training import RUN, deterministic, pretrain

class Killing(Silent):
    def step(self, *, epoch, step, steps, loss):
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

with deterministic():
    pretrain(Path({data!r}), Path({run!r}), RUN, same=True, progress=Killing())
"""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    write_cases(tmp_path, 1)
    whole = Silent()
    with deterministic():
        assert pretrain(tmp_path, tmp_path / "whole", RUN, same=True, progress=whole).finished
    # Both prompts have one embedding, so they share their pathways: the end of the training says so.
    assert any("'left ball', 'right ball' have the same pathway" in line for line in whole.lines)
    script = KILLED.format(
        here=str(Path(__file__).parents[3]), data=str(tmp_path), run=str(tmp_path / "killed")
    )
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.run(
        [sys.executable, "-c", script], check=False, env=threads, capture_output=True, text=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert checkpoint.load(tmp_path / "killed", prefer="latest").config.provenance["epoch"] == 1
    with deterministic():
        assert pretrain(tmp_path, tmp_path / "killed", RUN, same=True, resume=True).finished
    ends = [checkpoint.load(tmp_path / name, prefer="latest") for name in ("whole", "killed")]
    assert equal_states(ends[0].weights, ends[1].weights)
    assert ends[0].config == ends[1].config
    assert ends[0].config.text_weights == "random (seed 0)" and ends[0].prompts == PROMPTS
    assert not list((tmp_path / "killed").rglob("*.pt")) and not list((tmp_path / "killed").rglob("*.pkl"))


def test_warm_start_then_pretrain_from_it(tmp_path: Path) -> None:
    run = options(max_epochs=1)
    material = make_material(tmp_path)
    progress = Silent()
    outcome = warm_start(material, make_run(run, tmp_path / "warm", progress))
    assert outcome.finished and outcome.best_dice is not None
    static = checkpoint.load(tmp_path / "warm" / "static")
    routed = checkpoint.load(tmp_path / "warm" / "routed")
    net = routed.routed()
    pathways = spread(2, pathways=2)
    assert [net.resolve(e) for e in material.embeddings] == list(pathways)
    assert all(torch.equal(routed.weights[n], t) for n, t in static.weights.items())
    assert routed.config.provenance["upcycled"] is True and routed.config.prompts == static.config.prompts

    # A warm start goes on from another one's weights.
    still = options(max_epochs=1, learning_rate=1e-12)
    warm_start(
        material, make_run(still, tmp_path / "again", progress, pretrained=tmp_path / "warm" / "static")
    )
    again = checkpoint.load(tmp_path / "again" / "static", prefer="latest").weights
    assert all(torch.allclose(again[n].float(), t.float(), atol=1e-6) for n, t in static.weights.items())

    # Killed before its first checkpoint, a run that is resumed still starts from --pretrained.
    pretrain(
        tmp_path,
        tmp_path / "run",
        still,
        resume=True,
        pretrained=tmp_path / "warm" / "routed",
        progress=progress,
    )
    assert any(line.startswith(f"initialised {len(net.state_dict())} of") for line in progress.lines)
    after = checkpoint.load(tmp_path / "run", prefer="latest").weights
    assert all(torch.allclose(after[n].float(), t.float(), atol=1e-6) for n, t in routed.weights.items())
    assert not any("have the same pathway" in line for line in progress.lines)

    with pytest.raises(CheckpointError, match=r"does not fit.*feature size 12; expected feature size 24"):
        pretrain(
            tmp_path,
            tmp_path / "other",
            options(network=type(run.network)(feature_size=24, pathways=2)),
            pretrained=tmp_path / "warm" / "routed",
        )

    # A run that cannot be resumed changes nothing.
    files = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match="do not fit the network"):
        pretrain(
            tmp_path,
            tmp_path / "run",
            options(network=type(run.network)(feature_size=24, pathways=2)),
            resume=True,
            same=True,
        )
    assert files == {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}


@pytest.mark.parametrize(("weights", "copied"), [("random (seed 0)", True), ("laion400m_e32", False)])
def test_a_run_takes_the_routers_of_its_own_text_tower_only(
    tmp_path: Path, weights: str, copied: bool
) -> None:
    source, net = GcisNet(RUN.network), GcisNet(RUN.network)
    config = CheckpointConfig(
        kind="routed", network=RUN.network, text_model=RUN.text_model, text_weights=weights
    )
    checkpoint.save(tmp_path / "c", config, source.state_dict())
    progress = Silent()
    run = make_run(RUN, tmp_path / "run", progress, pretrained=tmp_path / "c")
    initialise_network(net, make_material(tmp_path), run)
    routers = [n for n in net.state_dict() if n.startswith("routers.") and n.endswith("weight")]
    assert all(torch.equal(net.state_dict()[n], source.state_dict()[n]) == copied for n in routers)
    assert any("cannot use the embeddings of this run" in line for line in progress.lines) != copied
