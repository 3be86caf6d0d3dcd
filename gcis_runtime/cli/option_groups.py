"""Define the options of `gcis-run` in groups; a command receives each group as one value."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from gcis_runtime.choices import (
    DEFAULT_RESTORE,
    ENGINE_CHOICES,
    PRECISION_CHOICES,
    RESTORE_CHOICES,
    EngineChoice,
    PrecisionChoice,
    Restore,
)
from gcis_runtime.system.console import options_under

if TYPE_CHECKING:
    from gcis_runtime.runs.options import RunOptions

Command = Callable[..., Any]

inputs = options_under("What to segment")
outputs = options_under("Results")
limits = options_under("Limits")
many = options_under("Many images")
remote = options_under("Service")
dicom_inputs = options_under("DICOM studies")
_engine = options_under("Engine")


_RUN_OPTIONS = (
    outputs("--restore", type=click.Choice(RESTORE_CHOICES), default=DEFAULT_RESTORE, show_default=True,
            help="Labels on the image's grid: from interpolated logits (smooth); of the nearest voxel of the "
            "network (nearest); or stretched from corner to corner and blended as in the published "
            "evaluation, which displaces structures: only to reproduce published numbers (published)."),
    outputs("--raw", is_flag=True,
            help="Do not apply the bundle's post-processing rules (largest component, holes, small parts)."),
    inputs("--straighten", is_flag=True,
           help="If the axes of an image are oblique, segment along the axes of the patient. Labels stay on "
           "the image's grid. [a warning from 15 degrees on]"),
    outputs("--masks", is_flag=True,
            help="Write IMAGE_seg_masks/: one file per structure, overlaps kept."),
    outputs("--probability", is_flag=True,
            help="Write IMAGE_seg_probability/: one file per structure, 0 to 1."),
    outputs("--statistics", is_flag=True,
            help="Write IMAGE_seg_statistics.csv: volume, HU, box in mm, whether cut off."),
    outputs("--preview", is_flag=True, help="Write IMAGE_seg.png: three planes with the structures."),
    outputs("--report-html", is_flag=True,
            help="Write IMAGE_report.html: pictures, measurements and what to check; for many images also "
            "OUT/summary.html. Needs the extra report."),
    outputs("--truth", metavar="LABELS", type=click.Path(path_type=Path),
            help="True label map: prints Dice."),
    limits("--roi", metavar="REGION",
           help="x0:x1,y0:y1,z0:z1 in voxels (ends may be open), the path of a mask, or the name of a "
           "structure. Labels inside are those of a complete run; outside, all is background."),
    limits("--coarse", is_flag=False, flag_value="2", metavar="[FACTOR|BUNDLE]",
           help="Find structures on voxels FACTOR times as large [2], or with BUNDLE, and refine only "
           "near them. Parts of a structure that the coarse pass misses may be lost."),
    limits("--body-crop/--no-body-crop", default=None,
           help="Crop to everything above air. [on, and exact, if the network was trained with this "
           "crop; otherwise off, and if set, only the body is computed: outside, all is background]"),
    limits("--max-memory", metavar="SIZE",
           help="Memory limit, such as 2G. An image whose forecast exceeds it is computed with less "
           "memory or refused. Images are then processed one at a time."),
    dicom_inputs("--series", multiple=True, metavar="NUMBER|UID",
                 help="DICOM series to segment; repeat for more. [the only CT series]"),
    dicom_inputs("--all-series", is_flag=True, help="Segment every CT series of a study."),
    dicom_inputs("--allow-irregular", is_flag=True,
                 help="Interpolate missing and unevenly spaced slices to a regular grid. [an error]"),
    dicom_inputs("--seg-type", type=click.Choice(["binary", "labelmap"]), default="binary",
                 show_default=True, help="Type of the segmentation; not all viewers read labelmap."),
    dicom_inputs("--sr", is_flag=True, help="Write NAME_sr.dcm: volume, mean HU and box (TID 1500)."),
    dicom_inputs("--uid-root", metavar="UID", help="Root of new UIDs. [2.25]"),
)  # fmt: skip


def engine_options(function: Command) -> Command:
    """Add the options of the engine; the function receives `engine`, an `EngineOptions`."""

    @functools.wraps(function)
    def command(
        *,
        engine: EngineChoice,
        device: str,
        precision: PrecisionChoice,
        threads: int | None,
        tf32: bool,
        **others: Any,
    ) -> Any:
        from gcis_runtime.engines.options import EngineOptions

        options = EngineOptions(engine=engine, device=device, precision=precision, threads=threads, tf32=tf32)
        return function(engine=options, **others)

    return _decorated(
        command,
        _engine("--engine", type=click.Choice(ENGINE_CHOICES), default="auto", show_default=True,
                help="Inference engine."),
        _engine("--device", default="cpu", show_default=True, metavar="cpu|cuda[:i]", help="Device."),
        _engine("--precision", type=click.Choice(PRECISION_CHOICES), default="auto", show_default=True,
                help="Arithmetic."),
        _engine("--threads", type=click.IntRange(min=1), metavar="N",
                help="CPU threads. [every CPU that the process may use]"),
        _engine("--tf32", is_flag=True,
                help="ONNX Runtime on CUDA: round the factors of float32 products to 11 bits. [off]"),
    )  # fmt: skip


def run_options(function: Command) -> Command:
    """Add the options of results and limits; the function receives `options`, a `RunOptions`."""

    @functools.wraps(function)
    def command(
        *,
        restore: Restore,
        masks: bool,
        probability: bool,
        statistics: bool,
        preview: bool,
        report_html: bool,
        truth: Path | None,
        roi: str | None,
        coarse: str | None,
        body_crop: bool | None,
        max_memory: str | None,
        raw: bool,
        straighten: bool,
        series: tuple[str, ...],
        all_series: bool,
        allow_irregular: bool,
        seg_type: Literal["binary", "labelmap"],
        sr: bool,
        uid_root: str | None,
        **others: Any,
    ) -> Any:
        from gcis_runtime.dicom.options import DicomOptions
        from gcis_runtime.pipeline.options import SegmentOptions
        from gcis_runtime.runs.options import RunOptions
        from gcis_runtime.system.memory import parse_bytes

        factor, bundle = _factor_or_bundle(coarse)
        segment = SegmentOptions(
            restore=restore,
            masks=masks,
            probabilities=probability,
            roi=roi,
            coarse=factor,
            body_crop=body_crop,
            max_memory=None if max_memory is None else parse_bytes(max_memory),
            raw=raw,
            straighten=straighten,
        )
        if series and all_series:
            raise click.UsageError("Pass --series or --all-series, not both.")
        options: RunOptions = RunOptions(
            segment=segment, coarse_bundle=bundle, statistics=statistics, preview=preview,
            report_html=report_html, truth=truth,
            dicom=DicomOptions(
                series=series, every=all_series, allow_irregular=allow_irregular,
                seg_type=seg_type, sr=sr, uid_root=uid_root,
            ),
        )  # fmt: skip
        return function(options=options, **others)

    return _decorated(command, *_RUN_OPTIONS)


def _decorated(function: Command, *options: Callable[[Command], Command]) -> Command:
    """Apply options so that `--help` lists them in this order, before those of the function."""
    for option in reversed(options):
        function = option(function)
    return function


def _factor_or_bundle(text: str | None) -> tuple[float | None, str | None]:
    """Return the factor or the bundle that is given with --coarse."""
    if text is None:
        return None, None
    try:
        return float(text), None
    except ValueError:
        pass
    from gcis_runtime.images.suffixes import suffix_of

    if suffix_of(Path(text)):
        raise click.UsageError(
            f"--coarse takes a factor or a bundle, not {text!r}. Write --coarse 2 before an image."
        )
    return None, text
