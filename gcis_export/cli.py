"""Implement the command `gcis-export`: parse the options, run the export and print the report."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gcis_export.options import (
    HARDWARE_COMPATIBILITIES,
    WEIGHTS_TYPES,
    BuildOptions,
    ExportRequest,
    Overrides,
    read_capability,
    read_post,
)
from gcis_runtime.choices import ENGINES, PRECISIONS
from gcis_runtime.spec import Foreground
from gcis_runtime.system.console import command, echo, json_option, out_option


class _Renamed(click.Option):
    """An option that also accepts former spellings; `--help` lists the first spelling only."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        listed = copy.copy(self)
        listed.opts = self.opts[:1]
        return click.Option.get_help_record(listed, ctx)


def _numbers(count: int, kind: type, *, repeat: bool) -> Callable[..., Any]:
    """Return a callback that parses `count` comma-separated numbers; `repeat` accepts one for all."""

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
            raise click.BadParameter(f"received {value!r}; expected {one}{count} comma-separated numbers")
        return numbers

    return read


def _foreground(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    """Parse a foreground rule: a margin in voxels, or `off`."""
    from msgspec import UNSET

    if value is None or value == "off":
        return UNSET if value else None
    try:
        return Foreground(margin=int(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither 'off' nor a margin in voxels ({error})") from error


def _capabilities(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> Any:
    """Parse compute capabilities."""
    return tuple(map(read_capability, values))


def _post(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> Any:
    """Parse post-processing rules."""
    return tuple(map(read_post, values))


def _with_request(function: Callable[[ExportRequest, bool], None]) -> Callable[..., None]:
    """Build one `ExportRequest` from the parsed options, whose names are the fields of the request."""

    @functools.wraps(function)
    def call(as_json: bool, **parsed: Any) -> None:
        parts = {"build_options": _built(BuildOptions, parsed), "overrides": _built(Overrides, parsed)}
        function(_built(ExportRequest, parsed | parts), as_json)

    return call


def _built(kind: type, parsed: dict[str, Any]) -> Any:
    return kind(**{f.name: parsed[f.name] for f in dataclasses.fields(kind)})


@command("gcis-export", extras="export")
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), required=True, help="Checkpoint or run folder."
)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="Structure to export, by prompt or alias; repeatable [all trained prompts].",
)
@click.option(
    "--engine",
    "engines",
    type=click.Choice(ENGINES),
    multiple=True,
    default=("onnx",),
    help="Engine to build or check; repeatable [onnx].",
)
@click.option(
    "--compute-capability",
    "capabilities",
    multiple=True,
    metavar="8.9",
    callback=_capabilities,
    help="trt-rtx: compute capability to build for; repeatable [8.0 and later].",
)
@click.option(
    "--hardware-compatibility",
    type=click.Choice(HARDWARE_COMPATIBILITIES),
    default="none",
    help="trt: also run on GPUs of the same compute capability, or on Ampere and later [none].",
)
@click.option(
    "--version-compatible",
    is_flag=True,
    help="trt: also run with later TensorRT releases and with tensorrt-lean.",
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="trt, trt-rtx: builder effort, from fast build (0) to fast engine (5) [the builder's default].",
)
@click.option("--tf32", is_flag=True, help="trt, trt-rtx: allow TF32 products (faster, less exact).")
@click.option(
    "--path-selection",
    "path_selections",
    multiple=True,
    metavar="2,1,3,5,3,6,6",
    help="Pathway selected by hand, counted from 1, one per --prompt; no text weights are needed.",
)
@click.option("--clip-weights", help="CLIP weights (tag or file) for prompts outside the trained ones.")
@click.option(
    "--any-clip", is_flag=True, help="Accept CLIP weights other than those that the network was trained with."
)
@click.option(
    "--untrained",
    is_flag=True,
    help="Accept prompts that the network was not trained with; the bundle marks them.",
)
@click.option(
    "--patch-size",
    "--roi",
    "patch_size",
    cls=_Renamed,
    callback=_numbers(3, int, repeat=True),
    metavar="N|X,Y,Z",
    help="Window size in voxels [from the checkpoint].",
)
@click.option(
    "--overlap", type=float, help="Overlap of neighbouring windows, 0 to below 1 [from the checkpoint]."
)
@click.option(
    "--spacing",
    callback=_numbers(3, float, repeat=True),
    metavar="MM|X,Y,Z",
    help="Voxel size in mm [from the checkpoint].",
)
@click.option(
    "--orientation",
    help="Axis codes such as RAS; 'file' keeps the orientation of the image file [from the checkpoint].",
)
@click.option(
    "--intensity-window",
    callback=_numbers(2, float, repeat=False),
    metavar="LOW,HIGH",
    help="HU mapped to 0 and 1 [from the checkpoint].",
)
@click.option(
    "--crop-foreground",
    "foreground",
    callback=_foreground,
    metavar="MARGIN|off",
    help="Crop images to the voxels above the lower end of the intensity window, plus this margin in voxels "
    "[from the checkpoint].",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Precision of the engines; other than fp32, a second graph is written in this precision.",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(2, 8),
    multiple=True,
    help="Also write a graph, and build engines, for this batch size; repeatable [1 only].",
)
@click.option(
    "--weights",
    type=click.Choice(WEIGHTS_TYPES),
    default="fp32",
    show_default=True,
    help="Storage type of the weights; fp16 halves the file size, and fp16 graphs share these weights.",
)
@click.option(
    "--label-value",
    "label_values",
    type=int,
    multiple=True,
    help="Label map value, one per prompt [1, 2, ...].",
)
@click.option(
    "--post",
    multiple=True,
    metavar="NAME=RULES",
    callback=_post,
    help="Rules that gcis-run applies to a structure of the finished label map: largest (keep the largest "
    "component), min:V (remove components below V mL), fill (fill holes), comma-separated; NAME * means all "
    "other structures; repeatable [none].",
)
@click.option(
    "--check",
    "cases",
    type=click.Path(path_type=Path),
    multiple=True,
    help="CT file for the parity gate; repeatable [the files of --calibration, or a phantom].",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    multiple=True,
    help="CT file for INT8 calibration; repeatable [phantoms].",
)
@click.option(
    "--check-windows",
    "windows_per_case",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Windows per case that the parity gate compares.",
)
@click.option("--name", help="Name of the bundle [derived from the prompts].")
@out_option(long="--output", help="Bundle folder [the bundle store].")
@click.option(
    "--triton",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also add the bundle to this Triton model repository.",
)
@click.option(
    "--triton-case",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also add a model for Triton's Python backend that takes CT files and returns label files.",
)
@click.option(
    "--monai-bundle",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write a MONAI bundle to this folder.",
)
@json_option(help="Print the result as JSON.")
@_with_request
def main(request: ExportRequest, as_json: bool) -> None:
    """Export prompts of a checkpoint as one verified bundle for gcis-run.

    Resolves each prompt to a pathway, writes a static graph, compares the graph with the network in every
    engine, and writes the bundle only if all comparisons pass. Research software, not a medical device.
    """
    from gcis_export.engines.registry import check_engines

    # Before the seconds that importing PyTorch takes.
    check_engines(request.engines, precision=request.precision, options=request.build_options)
    from gcis_export import report
    from gcis_export.export import export

    result = export(request, on_step=None if as_json else lambda step: echo(f"{step} ...", err=True))
    echo(report.as_json(result) if as_json else report.as_text(result))
