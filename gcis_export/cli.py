"""`gcis-export`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gcis_runtime.choices import ENGINES
from gcis_runtime.system.console import command, json_option, out_option


def _numbers(count: int, kind: type, *, repeat: bool) -> Any:
    """Return a callback that reads `count` comma-separated numbers, or one for all where `repeat`."""

    def read(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        try:
            numbers = tuple(kind(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if repeat and len(numbers) == 1:
            numbers *= count
        if len(numbers) != count:
            one = "one number or " if repeat else ""
            raise click.BadParameter(f"{value!r} is not {one}{count} numbers with commas")
        return numbers

    return read


def _foreground(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    """Read a foreground rule: its margin, or `off`."""
    from msgspec import UNSET

    from gcis_runtime.spec import Foreground

    if value is None or value == "off":
        return UNSET if value else None
    try:
        return Foreground(margin=int(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither 'off' nor a margin in voxels ({error})") from error


@command("gcis-export")
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), required=True, help="Checkpoint or run folder."
)
@click.option(
    "--prompt", "prompts", multiple=True, help="A structure; repeat for several [all that were trained]."
)
@click.option(
    "--engine",
    "engines",
    type=click.Choice(ENGINES),
    multiple=True,
    help="Engines to make and check; repeat for several [onnx].",
)
@click.option(
    "--compute-capability",
    "capabilities",
    multiple=True,
    metavar="8.9",
    help="trt-rtx: GPUs to build for; repeat for several [8.0 and later].",
)
@click.option(
    "--hardware-compatibility",
    type=click.Choice(["none", "same", "ampere+"]),
    default="none",
    help="trt: also run on GPUs of the same compute capability, or on Ampere and later [none].",
)
@click.option(
    "--version-compatible",
    is_flag=True,
    help="trt: also run under later releases, and under tensorrt-lean.",
)
@click.option(
    "--optimization-level", type=click.IntRange(0, 5), help="trt, trt-rtx: quick to thorough building."
)
@click.option("--tf32", is_flag=True, help="trt, trt-rtx: float32 products of 11 bits: faster, less exact.")
@click.option(
    "--path-selection",
    "path_selections",
    multiple=True,
    metavar="2,1,3,5,3,6,6",
    help="Pathway by hand, counted from 1, one for each --prompt; needs no text weights.",
)
@click.option("--clip-weights", help="CLIP weights (tag or file) for prompts that were not trained.")
@click.option(
    "--roi",
    callback=_numbers(3, int, repeat=True),
    metavar="N|X,Y,Z",
    help="Window in voxels [the checkpoint's].",
)
@click.option("--overlap", type=float, help="Overlap of windows, 0 to under 1 [the checkpoint's].")
@click.option(
    "--spacing",
    callback=_numbers(3, float, repeat=True),
    metavar="MM|X,Y,Z",
    help="Voxel size [the checkpoint's].",
)
@click.option("--orientation", help="Axis codes such as RAS; 'file' keeps the file's [the checkpoint's].")
@click.option(
    "--intensity-window",
    callback=_numbers(2, float, repeat=False),
    metavar="LOW,HIGH",
    help="HU mapped to 0 and 1 [the checkpoint's].",
)
@click.option(
    "--crop-foreground",
    callback=_foreground,
    metavar="MARGIN|off",
    help="Crop images to what is above the intensity window's low end and so many voxels around, as training "
    "did [the checkpoint's].",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Precision of the engines; other than fp32 it is written as a second, strongly typed graph.",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(2, 8),
    multiple=True,
    help="Also a graph, and engines, for this many windows at once; repeat for several [1 alone].",
)
@click.option(
    "--weights",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="How weights are stored; fp16 halves the file.",
)
@click.option(
    "--label-value",
    "label_values",
    type=int,
    multiple=True,
    help="Value in the label map, one for each prompt [1, 2, ...].",
)
@click.option(
    "--check",
    "cases",
    type=click.Path(path_type=Path),
    multiple=True,
    help="CT that the graphs are compared on; repeat for several [those of --calibration, or a phantom].",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    multiple=True,
    help="CT that INT8 is calibrated on; repeat for several [phantoms].",
)
@click.option(
    "--check-windows",
    "windows_per_case",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Windows compared in each.",
)
@click.option("--name", help="The bundle's name [from the prompts].")
@out_option(long="--output", help="The bundle's folder [the bundle store].")
@click.option(
    "--triton",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also add it to this Triton model repository.",
)
@click.option(
    "--monai-bundle",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write it there as a MONAI bundle.",
)
@json_option(help="Print the result as JSON.")
def main(
    as_json: bool,
    roi: Any,
    overlap: float | None,
    spacing: Any,
    orientation: str | None,
    intensity_window: Any,
    crop_foreground: Any,
    engines: tuple[str, ...],
    capabilities: tuple[str, ...],
    **options: Any,
) -> None:
    """Export prompts of a checkpoint as one verified bundle for gcis-run.

    Resolves each prompt to a pathway, writes a static graph, compares it with the network in every engine,
    and writes the bundle only when the numbers hold. Research software, not a medical device.
    """
    from gcis_export.engines.options import EngineOptions, read_capability
    from gcis_export.engines.select import check_engines

    engines = engines or ("onnx",)
    names = ("hardware_compatibility", "version_compatible", "optimization_level", "tf32")
    engine_options = EngineOptions(
        capabilities=tuple(map(read_capability, capabilities)), **{name: options.pop(name) for name in names}
    )
    # Before PyTorch takes its seconds.
    check_engines(engines, precision=options["precision"], options=engine_options)
    from gcis_export import report
    from gcis_export.export import Request, export
    from gcis_export.settings import Overrides

    overrides = Overrides(
        patch_size=roi,
        overlap=overlap,
        spacing=spacing,
        orientation=orientation,
        intensity_window=intensity_window,
        foreground=crop_foreground,
    )
    result = export(
        Request(engines=engines, engine_options=engine_options, overrides=overrides, **options),
        say=None if as_json else lambda step: click.echo(f"{step} ...", err=True),
    )
    click.echo(report.as_json(result) if as_json else report.as_text(result))
