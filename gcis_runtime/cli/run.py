"""`gcis-run`: CT file in, label map out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gcis_runtime.system.console import USAGE_EXIT, command, options_under

if TYPE_CHECKING:
    from gcis_runtime.cli.display import Display
    from gcis_runtime.pipeline.segmenter import Segmenter
    from gcis_runtime.runs.case import RunOptions
    from gcis_runtime.runs.outputs import Job
    from gcis_runtime.runs.summary import Summary

PROGRAM = "gcis-run"
# Spelled out here as well as in `sessions`: importing that would cost numpy before --help can answer.
_ENGINES = ("auto", "onnx", "openvino", "trt", "trt-rtx")
_PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
_RESTORE = ("smooth", "nearest")

_FORMATS = ("nii.gz", "nii", "nrrd", "mha")

_EPILOG = """\b
Examples:
  gcis-run ct.nii.gz                                 the only installed bundle
  gcis-run ct.nii.gz --prompt liver                  the installed bundle that has this prompt
  gcis-run cts/ --bundle B -o out/ --statistics      every image of a folder, with a summary
  gcis-run cts/ --bundle B -o out/ --resume          go on after an interruption
  gcis-run --phantom 7 -o demo/                      a generated head and neck, scored

Research software, not a medical device."""

_input = options_under("What to segment")
_output = options_under("Results")
_limits = options_under("Limits")
_many = options_under("Many images")
_engine = options_under("Engine")


@command(
    PROGRAM,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument(
    "images", nargs=-1, metavar="IMAGE|FOLDER|PATTERN|LIST.csv...", type=click.Path(path_type=Path)
)
@_input("--bundle", metavar="B", help="Bundle folder, name in the store, or 'demo'.")
@_input(
    "--prompt", "prompts", metavar="P", multiple=True, help="Structure to segment; repeat for more. [all]"
)
@_input(
    "--phantom",
    "seed",
    type=click.IntRange(min=0),
    metavar="SEED",
    help="Make and segment a head-and-neck phantom; by default with the demo bundle.",
)
@_output("-o", "--out", metavar="OUT", help="Folder, or the file of the label map. [beside the image]")
@_output(
    "--format",
    "suffix",
    type=click.Choice(_FORMATS),
    help="Of label maps in folders. [nii.gz; NRRD and MHA for images of these formats]",
)
@_output(
    "--restore",
    type=click.Choice(_RESTORE),
    default=_RESTORE[0],
    show_default=True,
    help="Labels on the image's grid: from interpolated logits, or the nearest voxel's as published.",
)
@_output("--masks", is_flag=True, help="Write IMAGE_seg_masks/: one file a structure, overlaps kept.")
@_output("--probability", is_flag=True, help="Write IMAGE_seg_probability/: one file a structure, 0 to 1.")
@_output(
    "--statistics",
    is_flag=True,
    help="Write IMAGE_seg_statistics.csv: volume, HU, box in mm, cut off or not.",
)
@_output("--preview", is_flag=True, help="Write IMAGE_seg.png: three planes with the structures.")
@_output("--truth", metavar="LABELS", type=click.Path(path_type=Path), help="True label map: prints Dice.")
@_output("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@_limits(
    "--roi",
    metavar="REGION",
    help="x0:x1,y0:y1,z0:z1 in voxels (ends may be open), a mask's file, or a structure's name. Labels "
    "inside are those of a whole run; outside, all is background.",
)
@_limits(
    "--coarse",
    is_flag=False,
    flag_value="2",
    metavar="[FACTOR|BUNDLE]",
    help="Find structures on voxels FACTOR times as large [2], or with BUNDLE; refine only near them. "
    "May lose what the coarse pass missed in part.",
)
@_limits(
    "--body-crop/--no-body-crop",
    default=None,
    help="Crop to what is not air. [on, and exact, where the network was trained so; else off, and asked for "
    "only around the body: outside, all is background]",
)
@_limits(
    "--max-memory",
    metavar="SIZE",
    help="Such as 2G: what is predicted to need more is stepped down, or refused; one image at a time.",
)
@_many(
    "--resume",
    is_flag=True,
    help="Leave out images that are finished in OUT. [existing results are replaced]",
)
@_engine("--engine", type=click.Choice(_ENGINES), default="auto", show_default=True, help="Inference engine.")
@_engine("--device", default="cpu", show_default=True, metavar="cpu|cuda[:i]", help="Where it runs.")
@_engine("--precision", type=click.Choice(_PRECISIONS), default="auto", show_default=True, help="Arithmetic.")
@_engine("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads. [all that may be used]")
@_engine("--tf32", is_flag=True, help="ONNX Runtime on CUDA: float32 products round to 11 bits. [exact]")
def main(
    *,
    images: tuple[Path, ...],
    out: str | None,
    seed: int | None,
    suffix: str | None,
    truth: Path | None,
    resume: bool,
    as_json: bool,
    **settings: Any,
) -> int:
    """Segment CT images in HU (NIfTI; NRRD and MHA with SimpleITK) with an exported bundle.

    Writes a label map on each image's own grid and a JSON file with names, volumes, engine and times; for
    many images also OUT/summary.csv and OUT/summary.json. Exit code 0: every image was segmented; 2: not all.
    """
    if seed is not None:
        if images or truth or resume or out is None or out.endswith((".nii", ".nii.gz")):
            raise click.UsageError("--phantom takes -o FOLDER, and neither images, --truth nor --resume.")
        settings["bundle"] = settings["bundle"] or "demo"
    elif not images:
        raise click.UsageError("Missing argument 'IMAGE...'. Try --phantom 7 -o demo/ without an image.")
    from gcis_runtime.runs.inputs import Source, find_images, is_collection
    from gcis_runtime.runs.outputs import is_file_name, plan_jobs

    sources = find_images(images)
    collection = resume or any(map(is_collection, images))
    if collection and (out is None or is_file_name(out)):
        raise click.UsageError("Folders, patterns, lists and --resume need -o FOLDER.")
    if seed is not None:
        sources = (Source(image=Path(str(out)) / "phantom_ct.nii.gz", name="phantom_ct"),)
    if truth is not None and len(sources) != 1:
        raise click.UsageError("--truth belongs to one image.")
    jobs = plan_jobs(sources, out, suffix=suffix and f".{suffix}")
    if len(jobs) == 1 and seed is None:
        _refuse_missing(jobs[0])
    many = out is not None and (collection or len(jobs) > 1)
    folder = Path(out) if many and out is not None else None
    if folder is not None:
        from gcis_runtime.runs.summary import refuse_own

        refuse_own(images, folder)
    return _run(jobs, folder, settings, truth=truth, seed=seed, resume=resume, as_json=as_json)


def _refuse_missing(job: Job) -> None:
    """Let the only image's absence end the run before a bundle is loaded."""
    if not job.image.exists():
        from gcis_runtime.images.files import read_volume

        read_volume(job.image)


def _run(
    jobs: list[Job],
    folder: Path | None,
    settings: dict[str, Any],
    *,
    truth: Path | None,
    seed: int | None,
    resume: bool,
    as_json: bool,
) -> int:
    """Open the bundle and run every job, with a summary in `folder`; return the exit code."""
    from contextlib import ExitStack, nullcontext

    from gcis_runtime.cli.display import Display
    from gcis_runtime.pipeline.segmenter import Segmenter
    from gcis_runtime.regions.roi import parse_roi
    from gcis_runtime.runs.case import RunOptions, write_phantom
    from gcis_runtime.runs.cohort import run_cases
    from gcis_runtime.runs.outputs import clear_leftovers
    from gcis_runtime.runs.summary import Summary
    from gcis_runtime.system.folder_lock import folder_lock
    from gcis_runtime.system.memory import parse_bytes

    opening = {
        name: settings.pop(name) for name in ("engine", "device", "precision", "prompts", "threads", "tf32")
    }
    limit = settings.pop("max_memory")
    settings["max_memory"] = None if limit is None else parse_bytes(limit)
    with (
        ExitStack() as stack,
        nullcontext() if folder is None else folder_lock(folder),
        Segmenter.open(settings.pop("bundle"), **opening) as segmenter,
    ):
        clear_leftovers(jobs)
        if seed is not None:
            truth = write_phantom(seed, jobs[0].image.parent)[1]
        coarse = settings.pop("coarse")
        settings["coarse"] = _open_coarse(coarse, segmenter, opening) if coarse else None
        if isinstance(settings["coarse"], Segmenter):
            stack.enter_context(settings["coarse"])
        if settings["roi"] is not None:
            parse_roi(settings["roi"], segmenter.bundle.manifest)  # before an image is read
        options = RunOptions(truth=truth, **settings)
        summary = None
        if folder is not None:
            summary = Summary(folder, segmenter, jobs, with_statistics=options.statistics)
        display = Display(PROGRAM, jobs, summary, quiet=as_json)
        display.opened(segmenter)
        todo = _unfinished(segmenter, jobs, options, summary) if resume and summary else jobs
        try:
            run_cases(
                segmenter,
                todo,
                options,
                done=display.done,
                progress=display.progress,
                on_forecast=display.on_forecast,
            )
        except KeyboardInterrupt:
            display.interrupted()
            raise
        display.end()
    if as_json:
        _print_json(display, summary)
    return USAGE_EXIT if display.errors else 0


def _open_coarse(text: str, segmenter: Segmenter, opening: dict[str, Any]) -> float | Segmenter:
    """Understand --coarse: a factor, or a bundle, opened for the structures that are segmented."""
    from gcis_runtime.bundles.bundle import open_bundle
    from gcis_runtime.bundles.store import find_bundle
    from gcis_runtime.images.suffixes import suffix_of
    from gcis_runtime.pipeline.segmenter import Segmenter
    from gcis_runtime.regions.coarse import check_factor, matching_labels

    try:
        return check_factor(float(text))
    except ValueError:
        pass
    if suffix_of(Path(text)):
        raise click.UsageError(
            f"--coarse takes a factor or a bundle, not {text!r}: before an image, --coarse 2."
        )
    bundle = open_bundle(find_bundle(text, ()))
    labels = segmenter.bundle.manifest.labels
    others = matching_labels([labels[c] for c in segmenter.channels], bundle.manifest)
    return Segmenter.open(bundle, **(opening | {"prompts": [label.prompt for label in others]}))


def _unfinished(segmenter: Segmenter, jobs: list[Job], options: RunOptions, summary: Summary) -> list[Job]:
    """Return the jobs that no earlier run finished; note the others in the summary."""
    from gcis_runtime.runs.resume import finished_report

    left = []
    for job in jobs:
        report = finished_report(segmenter, job, options)
        if report is None:
            left.append(job)
        else:
            summary.finished(job, report, skipped=True, write=False)
    summary.write()
    return left


def _print_json(display: Display, summary: Summary | None) -> None:
    import msgspec

    document: dict[str, Any] = {"results": display.reports, "errors": display.errors}
    if summary is not None:
        document |= {"counts": dict(summary.counts), "summary": str(summary.path)}
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


if __name__ == "__main__":
    main()
