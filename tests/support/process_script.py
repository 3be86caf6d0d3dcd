"""Train in two processes that communicate through gloo; test_distributed.py starts this script.

python process_script.py DATA WORK SCENARIO:PORT...: the two ranks of a scenario are forks, so that torch is
imported once. Each rank writes its results to WORK/SCENARIO/rank<N>.json.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from gcis_runtime.errors import GcisError
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet
from gcis_train.options.training import TrainOptions
from gcis_train.training.distributed import connected, current
from gcis_train.training.loop.steps import Stepper
from gcis_train.training.objectives import Batch, RoutedObjective
from tests.support.stub_training import RUN, Recording, StubObjective, trainer
from tests.support.training_values import PROMPTS, batch, options

CPU = torch.device("cpu")
SMALL = (64, 32, 32)


def changed(**changes: Any) -> TrainOptions:
    """Return the options of the stub run with changes."""
    return type(RUN)(**{**{f: getattr(RUN, f) for f in RUN.__struct_fields__}, **changes})


def routed_step(part: Batch) -> dict[str, torch.Tensor]:
    """Take one step of a routed network on this process's windows, and return weights and gradients.

    Computed in float64: AdamW moves a weight by the learning rate in the direction of its gradient's sign,
    which rounding determines for the smallest gradients.
    """
    torch.manual_seed(3)
    net = GcisNet(NetworkConfig(feature_size=12, pathways=3, text_dim=8)).double()
    embeddings = torch.randn(2, 8, generator=torch.Generator().manual_seed(4)).double()
    objective = RoutedObjective(net, PROMPTS, embeddings, tau=1.0, balance=0.1)
    run = options(learning_rate=1e-3, schedule="constant", warmup_epochs=0.0, clip_gradient=1.0)
    loss, _ = Stepper(objective, run, current(), steps=2).step(part, 0)
    grads = {f"grad.{n}": p.grad for n, p in net.named_parameters() if p.grad is not None}
    return {**net.state_dict(), **grads, "loss": torch.tensor(loss, dtype=torch.float64)}


def whole_batch() -> Batch:
    """Return three windows with two, one and no labelled prompts, an unequal share per process."""
    made = batch(SMALL, (PROMPTS, PROMPTS[:1], ()), seed=1)
    return dataclasses.replace(made, images=made.images.double())


def part_of(whole: Batch, windows: slice) -> Batch:
    """Return the share of a process in a batch."""
    return Batch(
        names=whole.names[windows],
        images=whole.images[windows],
        masks=whole.masks[windows],
        prompts=whole.prompts[windows],
        seeds=whole.seeds[windows],
    )


class Signalled(Recording):
    """Progress display that sends SIGTERM to this process after its third step."""

    def step(self, **values: Any) -> None:
        super().step(**values)
        if len(self.losses) == 3:
            os.kill(os.getpid(), signal.SIGTERM)


class Dying(Recording):
    """Progress display that ends this process after its third step without an error."""

    def step(self, **values: Any) -> None:
        super().step(**values)
        if len(self.losses) == 3:
            os._exit(7)


def scenario(name: str, data: Path, work: Path, rank: int) -> dict[str, Any]:
    """Run one rank and return its results."""
    folder = work / f"run{rank}"
    if name == "routed":
        share = slice(0, 1) if rank == 0 else slice(1, 3)
        state = routed_step(part_of(whole_batch(), share))
        torch.save(state, work / f"weights{rank}.pt")
        return {}
    run, progress = changed(batch_size=1), Recording(work / f"losses{rank}.jsonl")
    if name == "stop" and rank == 1:
        progress = Signalled(work / "losses1.jsonl")
    if name == "dead" and rank == 1:
        progress = Dying(work / "losses1.jsonl")
    if name == "nan" and rank == 1:
        honest = StubObjective.loss

        def bad(self: StubObjective, b: Batch, *, done: float) -> Any:
            (term,) = honest(self, b, done=done)
            return (type(term)(total=term.total * float("nan"), count=term.count),)

        StubObjective.loss = bad  # type: ignore[method-assign]
    made = trainer(data, folder, run, dropout=False, progress=progress)
    if rank == 1:  # the first process's weights are shared
        with torch.no_grad():
            made._objective.net.conv.weight.zero_()  # type: ignore[union-attr, operator]
    outcome = made.run()
    return {
        "finished": outcome.finished,
        "best": outcome.best_dice,
        "losses": progress.losses,
        "wrote": sorted(p.name for p in folder.iterdir()),
        "weights": {n: t.tolist() for n, t in made._objective.net.state_dict().items()},
    }


def two_ranks(name: str, data: Path, work: Path, port: str) -> None:
    """Fork two ranks and wait for both."""
    children = []
    work.mkdir(parents=True)
    for rank in range(2):
        if (pid := os.fork()) == 0:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
            try:
                with connected(CPU, minutes=1.0):
                    seen = scenario(name, data, work, rank)
            except GcisError as error:
                seen = {"error": f"{type(error).__name__}: {error}"}
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            (work / f"rank{rank}.json").write_text(json.dumps(seen))
            os._exit(0)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    if codes not in ([0, 0], [0, 7]):
        sys.exit(f"{name}: ranks ended with {codes}")


if __name__ == "__main__":
    for argument in sys.argv[3:]:
        scenario_name, port = argument.split(":")
        two_ranks(scenario_name, Path(sys.argv[1]), Path(sys.argv[2]) / scenario_name, port)
