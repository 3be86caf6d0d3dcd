"""Implement the commands `evaluate`, `ceiling` and `curves` of `gcis-train`."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gcis_runtime.choices import DEFAULT_RESTORE, ENGINE_CHOICES, PRECISION_CHOICES, RESTORE_CHOICES
from gcis_runtime.system.console import echo, out_option

if TYPE_CHECKING:
    from gcis_runtime.choices import EngineChoice, PrecisionChoice, Restore
    from gcis_train.data.datalist import Case
    from gcis_train.evaluation.evaluate import Source

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
ANY = click.Path(path_type=Path)

_SPLIT = click.option(
    "--split", type=click.Choice(["validation", "training"]), default="validation", show_default=True
)
_CASES = click.option(
    "--cases",
    type=click.IntRange(min=0),
    default=0,
    help="Number of cases, in the order of the datalist; 0 for all [0].",
)
PRESET_CHOICES = ("kits23", "msd", "segrap", "flare22", "word")
"""Names of `evaluation.presets.PRESETS`, which is not imported for the help of other commands."""
_DATALIST = click.option("--datalist", type=FILE, required=True, help="Datalist JSON.")
_PROMPT = click.option("--prompt", default="", help="Structure of the rows of the datalist without a prompt.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SourceOptions:
    """Options that select the source of predictions; see the help of `evaluate`.

    Raises:
        click.UsageError: There is not exactly one source, or an option does not apply to it.
    """

    checkpoint: Path | None
    bundle: str | None
    predictions: Path | None
    labels: str | None
    allow_missing: bool
    overlap: float | None
    engine: EngineChoice
    precision: PrecisionChoice
    restore: Restore
    raw: bool
    device: str

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.checkpoint, self.bundle, self.predictions)) != 1:
            raise click.UsageError("Pass one of --checkpoint, --bundle and --predictions.")
        if self.predictions is None and (self.labels is not None or self.allow_missing):
            raise click.UsageError("--labels and --allow-missing require --predictions.")
        if self.checkpoint is None and self.overlap is not None:
            raise click.UsageError("--overlap requires --checkpoint.")
        if self.bundle is None and self.raw:
            raise click.UsageError("--raw requires --bundle.")


@click.command()
@click.option("--checkpoint", type=ANY, help="Checkpoint or run folder, evaluated with PyTorch and MONAI.")
@click.option("--bundle", help="Bundle, evaluated exactly as gcis-run runs it.")
@click.option(
    "--predictions", type=FOLDER, help="Folder of label maps, such as the output folder of gcis-run."
)
@click.option(
    "--labels",
    metavar="FILE|NAME=VALUE,…",
    help="Label values of --predictions [the JSON file next to each label map].",
)
@click.option("--allow-missing", is_flag=True, help="Skip cases without a label map in --predictions.")
@_DATALIST
@_PROMPT
@_SPLIT
@_CASES
@click.option(
    "--preset",
    type=click.Choice(PRESET_CHOICES),
    help="Score by the rules of this challenge: its classes, tolerances, empty masks and means.",
)
@click.option("--tolerance", type=click.FloatRange(min=0), help="Tolerance of the surface Dice in mm [2].")
@click.option(
    "--worst", type=click.IntRange(min=0), help="Number of worst cases to draw as overlay images [3]."
)
@click.option(
    "--lesion",
    "lesions",
    multiple=True,
    metavar="PROMPT",
    help="Prompt whose connected components are lesions: report sensitivity and false positives; repeat for "
    "several.",
)
@click.option("--overlap", type=float, help="Window overlap of --checkpoint [the checkpoint's].")
@click.option(
    "--engine",
    type=click.Choice(ENGINE_CHOICES),
    default="auto",
    show_default=True,
    help="Engine of --bundle.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISION_CHOICES),
    default="auto",
    show_default=True,
    help="Precision of --bundle.",
)
@click.option(
    "--restore",
    type=click.Choice(RESTORE_CHOICES),
    default=DEFAULT_RESTORE,
    show_default=True,
    help="Labels of --checkpoint or --bundle on the native grid: from interpolated logits (smooth), of the "
    "nearest voxel (nearest), or as in the published evaluation, which displaces structures (published).",
)
@click.option("--raw", is_flag=True, help="Do not apply the post-processing rules of --bundle.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
@out_option(type=FOLDER, required=True, help="Folder for scores.csv, summary.json, summary.md and images.")
def evaluate(
    datalist: Path,
    prompt: str,
    split: str,
    cases: int,
    preset: str | None,
    tolerance: float | None,
    worst: int | None,
    lesions: tuple[str, ...],
    out: Path,
    **source: Any,
) -> None:
    """Score every labelled structure of a datalist on the native grid of each image.

    Computes Dice, normalised surface Dice and HD95 for a checkpoint, a bundle or label maps on disk.
    summary.md defines every metric, including its value for empty masks. --preset scores by the rules of a
    challenge instead.
    """
    options = _SourceOptions(**source)
    if preset is not None and (tolerance is not None or worst is not None or lesions):
        raise click.UsageError("--preset defines the scores: omit --tolerance, --worst and --lesion.")
    chosen = _cases(datalist, split, cases, prompt=prompt)
    notes = {"datalist": datalist.name, "split": split}
    if preset is not None:
        _evaluate_preset(preset, chosen, notes, out, options)
        return
    from gcis_train.evaluation.evaluate import evaluate as run
    from gcis_train.evaluation.scorecard import table, write_results
    from gcis_train.evaluation.scores import TOLERANCE
    from gcis_train.evaluation.worst import WorstCases
    from gcis_train.training.progress import Progress

    pictures = WorstCases(3 if worst is None else worst)
    with _open_source(options, chosen) as opened:
        found = run(
            chosen,
            opened,
            progress=Progress(sys.stderr).log,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            watcher=pictures,
            lesions=lesions,
        )
    result = write_results(out, found, {**notes, **opened.notes, "worst_cases": pictures.write(out)})
    echo(table(result))
    for name, rows in found.unscored.items():
        echo(f"not predicted, not scored: {name!r} ({rows} rows)", err=True)


def _evaluate_preset(
    name: str, cases: tuple[Case, ...], notes: dict[str, str], out: Path, options: _SourceOptions
) -> None:
    from gcis_train.evaluation.preset_card import table, write_preset
    from gcis_train.evaluation.preset_scores import evaluate_preset
    from gcis_train.evaluation.presets import PRESETS
    from gcis_train.training.progress import Progress

    with _open_source(options, cases) as opened:
        found = evaluate_preset(cases, opened, PRESETS[name], progress=Progress(sys.stderr).log)
    echo(table(write_preset(out, found, {**notes, **opened.notes})))


@contextlib.contextmanager
def _open_source(options: _SourceOptions, cases: Sequence[Case]) -> Iterator[Source]:
    """Open the source of predictions that the options select."""
    if options.checkpoint is not None:
        from gcis_train.evaluation.evaluate import network_source
        from gcis_train.options.settings import pick_device
        from gcis_train.weights import checkpoint as checkpoints

        yield network_source(
            checkpoints.load(options.checkpoint),
            overlap=options.overlap,
            device=pick_device(options.device),
            restore=options.restore,
        )
    elif options.bundle is not None:
        from gcis_train.evaluation.bundle_predictions import bundle_source

        device = "cpu" if options.device == "auto" else options.device
        with bundle_source(
            options.bundle,
            engine=options.engine,
            precision=options.precision,
            device=device,
            restore=options.restore,
            raw=options.raw,
        ) as source:
            yield source
    elif options.predictions is not None:
        from gcis_train.evaluation.predictions import folder_source

        yield folder_source(
            options.predictions, cases, labels=options.labels, allow_missing=options.allow_missing
        )


def _cases(datalist: Path, split: str, count: int, *, prompt: str) -> tuple[Case, ...]:
    from gcis_train.data.datalist import group_cases, read_datalist

    rows = read_datalist(datalist, prompt=prompt)
    for note in rows.notes:
        echo(f"datalist: {note}", err=True)
    chosen = group_cases(rows.training if split == "training" else rows.validation, folder=datalist.parent)
    return chosen[: count or None]


@click.command()
@_DATALIST
@_PROMPT
@_SPLIT
@_CASES
@click.option(
    "--spacing",
    "spacings",
    multiple=True,
    required=True,
    help="Voxel size in mm: one number or three, comma-separated; repeat to compare.",
)
@click.option(
    "--orientation",
    default="RAS",
    show_default=True,
    help="Axis codes, or 'file' to keep the axes of the file.",
)
@out_option(type=FILE, required=True, help="JSON file of the result.")
def ceiling(
    datalist: Path,
    prompt: str,
    split: str,
    cases: int,
    spacings: tuple[str, ...],
    orientation: str,
    out: Path,
) -> None:
    """Compute the Dice of the true labels after resampling to a voxel size and back.

    It is the upper bound for any network with that --spacing.
    """
    from gcis_runtime.spec import PreprocessSpec
    from gcis_runtime.system.json_files import write_json
    from gcis_train.evaluation.ceiling import ceilings, table
    from gcis_train.options.flags import numbers
    from gcis_train.training.progress import Progress

    axes = None if orientation == "file" else orientation.upper()
    specs = {}
    for text in spacings:
        x, y, z = numbers(text, float, "--spacing", count=3)
        specs[f"{text} mm"] = PreprocessSpec(orientation=axes, spacing=(x, y, z))
    every = _cases(datalist, split, cases, prompt=prompt)
    result = ceilings(every, specs, progress=Progress(sys.stderr).log)
    write_json(out, {"datalist": datalist.name, "split": split, "orientation": axes, **result})
    echo(table(result))


@click.command()
@click.argument("run_dirs", nargs=-1, required=True, type=FOLDER, metavar="RUN_DIR...")
@out_option(type=FILE, required=True, help="PNG file.")
def curves(run_dirs: tuple[Path, ...], out: Path) -> None:
    """Draw the loss, the validation Dice of each prompt and the learning rate of a run.

    Several run folders are drawn as one training, in the order of the arguments.
    """
    from gcis_train.evaluation.curves import LOSS, write_curves

    found = write_curves(run_dirs, out)
    steps = int(max(curve.steps[-1] for curve in found.values()))
    last = f", last loss {found[LOSS].values[-1]:.4f}" if LOSS in found else ""
    echo(f"{steps} steps{last}; written to {out}")
