"""Implement the command `gcis-run`: segment CT files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gcis_runtime.choices import LABEL_FORMATS
from gcis_runtime.cli.option_groups import engine_options, inputs, many, outputs, remote, run_options
from gcis_runtime.system.console import USAGE_EXIT, command, json_option, out_option

if TYPE_CHECKING:
    from gcis_runtime.engines.options import EngineOptions
    from gcis_runtime.runs.executor import Executor
    from gcis_runtime.runs.options import RunOptions

PROGRAM = "gcis-run"

_PHANTOM = "--phantom takes -o FOLDER, and neither images, --truth, --resume, --shard nor --ray."
_EPILOG = """\b
Examples:
  gcis-run ct.nii.gz                                 the only installed bundle
  gcis-run ct.nii.gz --prompt liver                  the installed bundle that has this prompt
  gcis-run cts/ --bundle B -o out/ --statistics      every image of a folder, with a summary
  gcis-run cts/ --bundle B -o out/ --resume          continue after an interruption
  gcis-run cts/ --bundle B -o out/ --ray auto        on a Ray cluster that requires a token
  gcis-run study/ --series 3                         a CT series of a folder or zip archive with DICOM
  gcis-run --phantom 7 -o demo/                      a generated head and neck, scored

Research software, not a medical device."""


@command(
    PROGRAM,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument(
    "images", nargs=-1, metavar="IMAGE|FOLDER|STUDY|PATTERN|LIST.csv...", type=click.Path(path_type=Path)
)
@inputs("--bundle", metavar="B", help="Bundle folder, name in the store, or 'demo'.")
@inputs(
    "--prompt", "prompts", metavar="P", multiple=True, help="Structure to segment; repeat for more. [all]"
)
@inputs(
    "--phantom",
    "seed",
    type=click.IntRange(min=0),
    metavar="SEED",
    help="Generate and segment a head-and-neck phantom; by default with the demo bundle.",
)
@out_option(
    option=outputs,
    type=str,
    metavar="OUT",
    help="Folder, or the file of the label map. [next to the image]",
)
@outputs(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(LABEL_FORMATS),
    help="Format of the labels; repeat for more. [that of NRRD and MHA images, dicom-seg for DICOM, else "
    "nii.gz]",
)
@run_options
@json_option(option=outputs, help="Print one JSON document instead of tables.")
@many(
    "--resume",
    is_flag=True,
    help="Skip images that are finished in OUT. [existing results are replaced]",
)
@many(
    "--shard",
    metavar="I/N",
    help="Segment every N-th image, from the I-th on. N runs with the same images and OUT may run at the "
    "same time; then join their summaries with `gcis-bundle merge-summaries OUT`.",
)
@many(
    "--ray",
    metavar="auto|ADDRESS",
    help="Compute on a running Ray cluster that requires a token: HOST:PORT of its head, or auto. Images, B "
    "and OUT must be in folders that all nodes share. Needs the ray extra.",
)
@engine_options
@remote(
    "--server", metavar="URL", help="Compute on the service gcis-serve at this URL; no engine is needed here."
)
@remote(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with the token of the service.",
)
def main(
    *,
    images: tuple[Path, ...],
    bundle: str | None,
    prompts: tuple[str, ...],
    seed: int | None,
    out: str | None,
    formats: tuple[str, ...],
    options: RunOptions,
    engine: EngineOptions,
    resume: bool,
    shard: str | None,
    ray: str | None,
    as_json: bool,
    server: str | None,
    token_file: Path | None,
) -> int:
    """Segment CT images in HU (NIfTI; NRRD, MHA and DICOM with an extra) with an exported bundle.

    Writes a label map on each image's own grid and a JSON file with names, volumes, engine and times; for
    many images also OUT/summary.csv and OUT/summary.json. Exit code 0: every image was segmented; 2: at least
    one was not.
    """
    _check_usage(images, seed, out, formats, options, resume=resume, shard=shard, ray=ray)
    if server is not None and engine != type(engine)():
        raise click.UsageError("--server computes with its own engine: omit the options of the engine.")
    if server is not None and ray is not None:
        raise click.UsageError("--server and --ray exclude each other.")
    if token_file is not None and server is None:
        raise click.UsageError("--token-file belongs to --server.")
    from gcis_runtime.cli.display import Display
    from gcis_runtime.cli.remote import run_on_service
    from gcis_runtime.runs.run_images import run_images, run_phantom
    from gcis_runtime.runs.shard import Shard

    part = None if shard is None else Shard.parse(shard)
    display = Display(PROGRAM, quiet=as_json)
    try:
        if server is not None:
            result = run_on_service(
                server, token_file, images, seed=seed, bundle=bundle, prompts=prompts, options=options,
                out=out, formats=formats, resume=resume, shard=part, callbacks=display.callbacks,
            )  # fmt: skip
        elif seed is not None:
            result = run_phantom(
                seed, out=str(out), bundle=bundle or "demo", prompts=prompts, engine=engine,
                options=options, suffix=f".{formats[0]}" if formats else None, callbacks=display.callbacks,
            )  # fmt: skip
        else:
            result = run_images(
                images, bundle=bundle, prompts=prompts, engine=engine, options=options, out=out,
                formats=formats, resume=resume, shard=part, callbacks=display.callbacks,
                executor=_executor(ray),
            )  # fmt: skip
    except KeyboardInterrupt:
        display.interrupted()
        raise
    display.end(result)
    return USAGE_EXIT if result.errors else 0


def _check_usage(
    images: tuple[Path, ...],
    seed: int | None,
    out: str | None,
    formats: tuple[str, ...],
    options: RunOptions,
    *,
    resume: bool,
    shard: str | None,
    ray: str | None,
) -> None:
    """Raise an error for arguments that exclude each other."""
    if seed is not None:
        others = images or options.truth or resume or shard or ray
        if others or out is None or out.endswith((".nii", ".nii.gz")):
            raise click.UsageError(_PHANTOM)
        if len(formats) > 1 or set(formats) & {"dicom-seg", "rtstruct"}:
            raise click.UsageError("--phantom writes one format, which is not DICOM.")
    elif not images:
        raise click.UsageError("Missing argument 'IMAGE...'. Try --phantom 7 -o demo/ without an image.")
    elif options.truth is not None and len(images) > 1:
        raise click.UsageError("--truth belongs to one image.")


def _executor(ray: str | None) -> Executor | None:
    """Return the executor of a cluster; None for this process."""
    if ray is None:
        return None
    from gcis_runtime.fleet.ray_executor import RayExecutor

    return RayExecutor(address=ray)


if __name__ == "__main__":
    main()
