"""`gcis-run`: CT file in, label map out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from gcis_runtime.console import USAGE_EXIT, command, error_line
from gcis_runtime.errors import GcisError

if TYPE_CHECKING:
    from gcis_runtime.outputs import Job
    from gcis_runtime.segmenter import Segmenter

PROGRAM = "gcis-run"
# Spelled out here as well as in `sessions`: importing that would cost numpy before --help can answer.
_ENGINES = ("auto", "onnx", "openvino", "trt", "trt-rtx")
_PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
_RESTORE = ("smooth", "nearest")

_EPILOG = """\b
Examples:
  gcis-run ct.nii.gz                            the only installed bundle
  gcis-run ct.nii.gz --prompt liver             the installed bundle that has this prompt
  gcis-run a.nii.gz b.nii.gz --bundle B -o out/ several images
  gcis-run --phantom 7 -o demo/                 a generated head and neck, scored against its truth

Research software, not a medical device."""


@command(
    PROGRAM,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("images", nargs=-1, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("--bundle", metavar="B", help="Bundle folder, name in the store, or 'demo'.")
@click.option(
    "--prompt", "prompts", metavar="P", multiple=True, help="Structure to segment; repeat for more. [all]"
)
@click.option(
    "-o", "--out", metavar="OUT", help="Folder, or a .nii.gz file. [IMAGE_seg.nii.gz beside the image]"
)
@click.option(
    "--engine", type=click.Choice(_ENGINES), default="auto", show_default=True, help="Inference engine."
)
@click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda[:i]", help="Where it runs.")
@click.option(
    "--precision", type=click.Choice(_PRECISIONS), default="auto", show_default=True, help="Arithmetic."
)
@click.option("--preview", is_flag=True, help="Write IMAGE_seg.png: three planes with the structures.")
@click.option(
    "--restore",
    type=click.Choice(_RESTORE),
    default=_RESTORE[0],
    show_default=True,
    help="Labels on the image's grid: from interpolated margins, or the nearest voxel's as published.",
)
@click.option("--masks", is_flag=True, help="Write IMAGE_seg_masks/: one file a structure, overlaps kept.")
@click.option(
    "--truth", metavar="LABELS", type=click.Path(path_type=Path), help="True label map: prints Dice."
)
@click.option(
    "--phantom",
    "seed",
    type=click.IntRange(min=0),
    metavar="SEED",
    help="Make and segment a head-and-neck phantom; by default with the demo bundle.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
def main(
    *,
    images: tuple[Path, ...],
    bundle: str | None,
    prompts: tuple[str, ...],
    out: str | None,
    engine: str,
    device: str,
    precision: str,
    preview: bool,
    restore: Literal["smooth", "nearest"],
    masks: bool,
    truth: Path | None,
    seed: int | None,
    as_json: bool,
) -> int:
    """Segment CT images (NIfTI, in HU) with an exported bundle.

    Writes a label map on each image's own grid and a JSON file with names, volumes, engine and times.
    """
    if seed is not None:
        if images or truth or out is None or out.endswith((".nii", ".nii.gz")):
            raise click.UsageError("--phantom takes -o FOLDER, and neither images nor --truth.")
        bundle = bundle or "demo"
    elif not images:
        raise click.UsageError("Missing argument 'IMAGE...'. Try --phantom 7 -o demo/ without an image.")
    if truth is not None and len(images) != 1:
        raise click.UsageError("--truth belongs to one image.")
    from gcis_runtime.outputs import plan_jobs
    from gcis_runtime.runs import write_phantom
    from gcis_runtime.segmenter import Segmenter

    jobs = plan_jobs(images or [Path(str(out)) / "phantom_ct.nii.gz"], out)
    _refuse_missing(jobs if seed is None else [])
    with Segmenter.open(
        bundle, engine=engine, device=device, precision=precision, prompts=prompts
    ) as segmenter:
        if not as_json:
            click.echo(f"{segmenter.bundle.name}: {segmenter.engine.text}", err=True)
        for note in segmenter.notes:
            click.echo(f"{PROGRAM}: note: {note}", err=True)
        if seed is not None:
            truth = write_phantom(seed, Path(str(out)))[1]
        options = {"truth": truth, "preview": preview, "restore": restore, "masks": masks}
        reports, errors = _run_all(segmenter, jobs, options, quiet=as_json)
    if as_json:
        import msgspec

        document = {"results": reports, "errors": errors}
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    return USAGE_EXIT if errors else 0


def _refuse_missing(jobs: list[Job]) -> None:
    """Let the only image's absence end the run before a bundle is loaded."""
    if len(jobs) == 1 and not jobs[0].image.exists():
        from gcis_runtime.nifti import read_volume

        read_volume(jobs[0].image)


def _run_all(
    segmenter: Segmenter, jobs: list[Job], options: dict[str, Any], *, quiet: bool
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Run every job with the options of `run_job`; a failing image does not stop the others."""
    from gcis_runtime.runs import run_job
    from gcis_runtime.tables import report_table

    reports: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    for job in jobs:
        try:
            report = run_job(segmenter, job, progress=_progress(job.image.name), **options)
        except (GcisError, OSError, MemoryError) as error:
            line = error_line(error)
            if len(jobs) > 1 and str(job.image) not in line:
                line = f"{job.image}: {line}"
            click.echo(f"{PROGRAM}: error: {line}", err=True)
            errors.append({"image": str(job.image), "error": line})
            continue
        reports.append(report)
        for warning in report["warnings"]:
            click.echo(f"{PROGRAM}: warning: {job.image}: {warning}", err=True)
        if not quiet:
            click.echo(report_table(report))
    return reports, errors


def _progress(name: str) -> Any:
    """Return a callback that keeps one line on a terminal, or None where nobody watches."""
    if not sys.stderr.isatty():
        return None

    def show(finished: int, total: int) -> None:
        end = "\r\033[K" if finished == total else ""
        click.echo(f"\r{name}: window {finished} of {total}{end}", err=True, nl=False)

    return show


if __name__ == "__main__":
    main()
