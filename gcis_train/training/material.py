"""Read the inputs of a training: cases, prompts and text embeddings."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from gcis_runtime.errors import CheckpointError, DataError
from gcis_train.data.datalist import Case, Row, group_cases, prompts_of, read_datalist
from gcis_train.data.orientations import check_orientations
from gcis_train.nets.pathway import Pathway
from gcis_train.options.recipe import is_published
from gcis_train.options.training import TrainOptions
from gcis_train.text.prompts import PromptTable, embed_prompts, read_table, write_table
from gcis_train.training.distributed import current
from gcis_train.weights.checkpoint import CheckpointConfig, prompt_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cases:
    """Cases of a run.

    Attributes:
        training: Training cases; a case with `repeat` N occurs N times.
        validation: Validation cases; may be empty.
        prompts: Distinct prompts of the run, in channel order.
    """

    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    prompts: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """Cases of a run with the text embeddings of their prompts.

    Attributes:
        cases: Cases and prompts.
        embeddings: (P, text_dim) float32 embeddings of `cases.prompts`.
        text_weights: Record of the text weights, as stored in checkpoints.
    """

    cases: Cases
    embeddings: Tensor
    text_weights: str


def read_cases(
    datalist: Path,
    options: TrainOptions,
    *,
    prompts: Sequence[str] = (),
    notify: Callable[[str], None] = lambda _: None,
) -> Cases:
    """Read the cases of a datalist.

    Args:
        datalist: Datalist file; image and label paths are relative to its folder.
        options: Options of the run; `validation_cases` limits the validation.
        prompts: Read only the rows of these prompts; empty reads all rows. Rows without a prompt have the
            prompt of a single one.
        notify: Called with every note on the datalist.

    Raises:
        DataError: The datalist is invalid or has no training rows, or its images have different orientations
            and the options do not set one.
    """
    rows = read_datalist(datalist, prompt=prompts[0] if len(prompts) == 1 else "")
    for note in rows.notes:
        notify(f"datalist: {note}")

    def cases(part: Sequence[Row]) -> tuple[Case, ...]:
        kept = tuple(row for row in part if not prompts or row.prompt in prompts)
        return group_cases(kept, folder=datalist.parent)

    training, validation = cases(rows.training), cases(rows.validation)
    if options.preprocess.orientation is None:
        check_orientations(training + validation, published=is_published(options), notify=notify)
    if not training:
        found = [repr(prompt) for prompt in dict.fromkeys(row.prompt for row in rows.training)]
        of_prompts = f" of {' or '.join(map(repr, prompts))}" if prompts else ""
        raise DataError(
            f"{datalist} has no training rows{of_prompts}",
            expected=f"one of {', '.join(found)}" if found else 'rows under "training"',
            fix="Choose a structure of the datalist, or add training rows.",
        )
    return Cases(
        training=tuple(case for case in training for _ in range(case.repeat)),
        validation=validation[: options.validation_cases or None],
        prompts=tuple(prompts) or prompts_of(training + validation),
    )


def gather(
    datalist: Path,
    options: TrainOptions,
    *,
    resumed: Path | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Material:
    """Read the cases of a datalist and embed their prompts.

    Args:
        datalist: Datalist file.
        options: Options of the run.
        resumed: Folder of the run to continue; prompts with embeddings stored there are not embedded again.
        notify: Called with every note on the datalist.

    Raises:
        DataError: The datalist is invalid or has no training rows.
        CheckpointError: Text weights are not available or do not fit the network.
        PromptError: The text tower cannot read a prompt.
    """
    cases = read_cases(datalist, options, notify=notify)
    table = embed_prompts(
        cases.prompts,
        model=options.text_model,
        weights=options.text_weights,
        seed=options.text_seed,
        known=None if resumed is None else read_table(resumed),
    )
    embeddings = table.tensor()
    if embeddings.shape[1] != options.network.text_dim:
        raise CheckpointError(
            f"the text model {options.text_model} does not fit the network",
            received=f"embeddings of {embeddings.shape[1]} numbers",
            expected=str(options.network.text_dim),
            fix="Set network.text_dim in the configuration.",
        )
    return Material(cases=cases, embeddings=embeddings, text_weights=table.text_weights)


def store_embeddings(material: Material, options: TrainOptions, run_dir: Path) -> None:
    """Write the text embeddings into the run folder, so that the run can be resumed without the text tower.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    if not current().first:
        return
    entries = prompt_table(material.cases.prompts, material.embeddings)
    table = PromptTable(text_model=options.text_model, text_weights=material.text_weights, prompts=entries)
    write_table(run_dir, table)


def checkpoint_config(
    material: Material,
    options: TrainOptions,
    *,
    kind: Literal["routed", "static"],
    pathways: Sequence[Pathway] = (),
    stage: str,
) -> CheckpointConfig:
    """Return the configuration of the checkpoints of a run.

    Args:
        material: Cases and prompts of the run.
        options: Options of the run.
        kind: Kind of the network.
        pathways: Pathway of each prompt, for a static network.
        stage: Name of the training, for the provenance.
    """
    return CheckpointConfig(
        kind=kind,
        network=options.network,
        preprocess=options.preprocess,
        window=options.window,
        prompts=prompt_table(material.cases.prompts, material.embeddings),
        path_selections=tuple(pathway.one_based for pathway in pathways),
        text_model=options.text_model,
        text_weights=material.text_weights,
        provenance={
            "gcis": importlib.metadata.version("gcis"),
            "stage": stage,
            "training_cases": len(set(material.cases.training)),
            "phantoms_per_epoch": options.phantoms,
        },
    )
