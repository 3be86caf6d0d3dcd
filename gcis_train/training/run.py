"""Run a training: read cases, resume, train to the last epoch, and write the run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from gcis_runtime.errors import CheckpointError, OutputError
from gcis_runtime.system.memory import bytes_text
from gcis_runtime.system.rehearsal import check_folder_writable
from gcis_train.data.cache import VolumeCache, case_loader
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.options.training import TrainOptions
from gcis_train.routing.decisions import coincidences
from gcis_train.routing.health import RouterHealth
from gcis_train.training.allocator import keep_freed_memory
from gcis_train.training.distributed import current
from gcis_train.training.loop.feed import CaseStore, Feed
from gcis_train.training.loop.run_folder import RunFolder
from gcis_train.training.loop.trainer import Outcome, Trainer
from gcis_train.training.loop.workers import worker_count
from gcis_train.training.material import Cases, Material
from gcis_train.training.objectives import Objective
from gcis_train.training.progress import Progress
from gcis_train.weights.checkpoint import CheckpointConfig, prompt_table
from gcis_train.weights.initialise import REPORT_FILE, initialise, read_source
from gcis_train.weights.text_towers import TextTower


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Settings of one training run.

    Attributes:
        options: Training options.
        run_dir: Run folder.
        device: Device to train on.
        progress: Progress display.
        resume: Continue from the latest checkpoint in the run folder, if there is one.
        pretrained: Weights to initialise the network from (weights/initialise.py), or None.
    """

    options: TrainOptions
    run_dir: Path
    device: torch.device
    progress: Progress
    resume: bool = False
    pretrained: Path | None = None

    @property
    def resumed(self) -> bool:
        """Whether the run continues from a checkpoint."""
        return self.resume and RunFolder(self.run_dir).has_checkpoint


def train(
    objective: Objective,
    cases: Cases,
    run: Run,
    config: CheckpointConfig,
    *,
    health: Callable[[], RouterHealth] | None = None,
    record: Callable[[], None] | None = None,
) -> Outcome:
    """Train an objective on the cases of a run, from the latest checkpoint if the run is resumed.

    Args:
        objective: Network and loss.
        cases: Training and validation cases.
        run: Settings of the run.
        config: Configuration of the checkpoints; the trainer adds its counters to the provenance.
        health: Returns router statistics of the current weights; None for a network without routers.
        record: Writes further files into the run folder, once it is certain that the run starts: a run that
            cannot be resumed changes nothing.

    Raises:
        DataError, CheckpointError, ProcessError: See `Trainer.resume` and `Trainer.run`.
    """
    keep_freed_memory()
    search_convolutions(run.device)
    options, progress, processes = run.options, run.progress, current()
    folder, resumed = RunFolder(run.run_dir), run.resumed
    if resumed and (changed := folder.changed_options(options)):
        progress.log(f"resumed with changed options: {', '.join(changed)}")
    cache = VolumeCache(Path(options.cache), notify=progress.log) if options.cache else None
    load = case_loader(options.preprocess, cache)
    validation = CaseStore(cases.validation, load)

    def validation_cases() -> CaseStore:
        mine = range(processes.rank, len(validation), processes.world)
        validation.load(mine, workers=worker_count(options.workers))
        return validation

    trainer = Trainer(
        objective=objective,
        feed=Feed(cases.training, cases.prompts, options, processes, load=load),
        prompts=cases.prompts,
        validation=validation_cases,
        options=options,
        run_dir=run.run_dir,
        config=config,
        progress=progress,
        health=health,
    )
    if resumed:
        trainer.resume()
    if processes.first:
        rehearse_checkpoint(run.run_dir, objective.net)
        folder.write_options(options)
    if record is not None:
        record()
    outcome = trainer.run()
    if cache is not None:
        progress.log(cache.summary())
    return outcome


def search_convolutions(device: torch.device) -> None:
    """Let cuDNN measure four algorithms per convolution and keep the fastest, on CUDA.

    At 96 voxels on an H100 the search takes 10 s, and 26 s without the limit (docs/decisions/0011).
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.benchmark_limit = 4


def rehearse_checkpoint(run_dir: Path, net: torch.nn.Module) -> None:
    """Write and replace a folder of the size of a checkpoint, before hours are spent on its content.

    Args:
        run_dir: Run folder.
        net: Network in training; the optimiser's state is twice as large as its weights.

    Raises:
        CheckpointError: The folder cannot be written, or the disk has no room for a checkpoint.
    """
    size = 3 * sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    try:
        check_folder_writable(run_dir / "checkpoints" / "latest-00000000", size=size)
    except OutputError as error:
        raise CheckpointError(
            f"{run_dir} cannot hold a checkpoint of {bytes_text(size)}",
            received=error.received,
            expected="a folder that this user can write to, on a disk with that much space",
            fix="Free space or choose another --run-dir.",
        ) from error


def initialise_network(net: GcisNet | StaticGcisNet, material: Material, run: Run) -> None:
    """Initialise a network from `run.pretrained`, unless there is none or the run is resumed.

    The run folder receives a report on every tensor.

    Raises:
        CheckpointError: The weights do not fit, or the run folder cannot be written.
    """
    if run.pretrained is None or run.resumed:
        return
    report = initialise(
        net,
        read_source(run.pretrained),
        prompts=material.cases.prompts,
        embeddings=material.embeddings,
        text=TextTower(
            model=run.options.text_model,
            weights=material.text_weights,
            prompts=prompt_table(material.cases.prompts, material.embeddings),
        ),
        router_gap=run.options.router_gap,
    )
    for line in report.lines():
        run.progress.log(line)
    if current().first:
        RunFolder(run.run_dir).write_json(REPORT_FILE, report.as_dict())


def log_coincidences(pathways: Mapping[str, Pathway], progress: Progress) -> None:
    """Log a warning for each group of prompts with identical pathways, and therefore identical masks."""
    for line in coincidences(dict(pathways)):
        progress.log(line)
