"""Render the page of one case: pictures of every structure, measurements, marks, and what ran."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.pages.facts import bundle_facts, engine_facts, engine_text, image_facts, parity_table
from gcis_runtime.pages.marks import find_marks, find_pieces
from gcis_runtime.pages.renderer import data_uri, render_page
from gcis_runtime.pictures.figures import (
    Canvas,
    draw_overview,
    draw_strip,
    draw_structure,
    draw_thumbnail,
    strip_slices,
)
from gcis_runtime.pictures.planes import color_lookup
from gcis_runtime.pictures.view import Extent, PatientView, body_box, centre_of, find_extents
from gcis_runtime.pipeline.report import Report
from gcis_runtime.pipeline.report_parts import Mark, Statistics, StructureReport
from gcis_runtime.pipeline.result import Segmentation

_PANEL, _SMALL_PANEL, _FULL_SIZE = 300, 110, 16
"""Pixels of a panel, the smallest panel, and the number of structures with panels of full size.

With more structures, panels shrink so that their total area, and with it the size of the page, is constant.
"""
_STRUCTURES_BYTES, _OTHER_BYTES, _THUMBNAIL_BYTES = 1_000_000, 300_000, 30_000
"""Characters of the pictures of all structures, of another picture, and of the thumbnail."""
_SLICES, _COLUMNS, _SLICE = 12, 4, 240
_THUMBNAIL = 128


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture as a data URI, its size in pixels, and the text for readers who do not see it."""

    source: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Page:
    """A page and what the report stores about it."""

    text: str
    marks: tuple[Mark, ...]


def case_page(report: Report, result: Segmentation, manifest: Manifest) -> Page:
    """Render the page of a case.

    Args:
        report: Its report, with the measurements of the structures.
        result: The segmentation.
        manifest: The manifest of the bundle.

    Raises:
        GcisError: jinja2 is not installed.
    """
    view = PatientView.of(result.volume, result.labels)
    extents = find_extents(view.labels, [s.value for s in report.structures])
    marks = find_marks(report.structures, find_pieces(view, extents))
    canvas = Canvas(
        view=view,
        lookup=color_lookup(
            {s.value: s.color for s in report.structures}, largest=max(int(view.labels.max()), 1)
        ),
        box=body_box(view.image, [view.labels]),
    )
    centre = [int(k) for k in centre_of(view.labels)]
    thumbnail = draw_thumbnail(canvas, centre, size=_THUMBNAIL)
    text = render_page(
        "case.html.j2",
        report=report,
        title=report.case or Path(report.image).name or "Segmentation",
        thumbnail=data_uri(thumbnail, limit=_THUMBNAIL_BYTES),
        overview=_figure(
            draw_overview(canvas, centre, panel=420),
            "Sagittal, coronal and axial plane through the centre of all structures: "
            + _names(report.structures),
        ),
        strip=_strip(canvas, list(extents.values())),
        rows=[_row(s, extents, marks, canvas, len(report.structures)) for s in report.structures],
        marked={mark.value for mark in marks},
        scored=any(s.dice is None or isinstance(s.dice, float) for s in report.structures),
        measured=any(isinstance(s.statistics, Statistics) for s in report.structures),
        total=sum(report.seconds.values()),
        stages=_stages(report),
        engine=engine_text(report.engine),
        image=image_facts(report, result.volume),
        computed=engine_facts(report),
        bundle=bundle_facts(report, manifest),
        parity=parity_table(manifest),
        warnings=[*report.warnings, *(f"For lack of memory: {step}" for step in report.steps)],
    )
    return Page(text=text, marks=marks)


def _figure(picture: Any, alt: str, *, limit: int = _OTHER_BYTES) -> Figure:
    return Figure(source=data_uri(picture, limit=limit), width=picture.width, height=picture.height, alt=alt)


def _names(structures: Sequence[StructureReport]) -> str:
    return ", ".join(s.name for s in structures if s.voxels) or "none was found"


def _strip(canvas: Canvas, extents: Sequence[Extent]) -> Figure:
    slices = strip_slices(canvas, extents, count=_SLICES)
    highest, lowest = (canvas.view.position_mm(2, k) for k in (slices[0], slices[-1]))
    return _figure(
        draw_strip(canvas, slices, columns=_COLUMNS, panel=_SLICE),
        f"{len(slices)} axial slices with all structures, from z {highest:.0f} mm (towards the head) down to"
        f" z {lowest:.0f} mm",
    )


def _row(
    s: StructureReport,
    extents: Mapping[int, Extent],
    marks: Sequence[Mark],
    canvas: Canvas,
    count: int,
) -> dict[str, Any]:
    """Return what the page shows of a structure."""
    extent = extents.get(s.value)
    figure = None
    if extent is not None:
        panel = max(_SMALL_PANEL, min(_PANEL, int(_PANEL * math.sqrt(_FULL_SIZE / count))))
        x, y, z = (canvas.view.position_mm(axis, extent.largest[axis]) for axis in range(3))
        figure = _figure(
            draw_structure(canvas, s.value, extent, panel=panel),
            f"Sagittal, coronal and axial plane through {s.name}, which is filled and outlined, at x {x:.0f},"
            f" y {y:.0f}, z {z:.0f} mm",
            limit=_STRUCTURES_BYTES // count,
        )
    found = s.statistics if isinstance(s.statistics, Statistics) else None
    size = ""
    if found is not None and found.box_min_mm is not None and found.box_max_mm is not None:
        sides = (high - low for low, high in zip(found.box_min_mm, found.box_max_mm, strict=True))
        size = " × ".join(f"{side:.0f}" for side in sides)
    return {
        "structure": s,
        "color": "#{:02x}{:02x}{:02x}".format(*s.color),
        "figure": figure,
        "mean": "" if found is None or found.mean_hu is None else f"{found.mean_hu:.0f}",
        "sd": "" if found is None or found.sd_hu is None else f"{found.sd_hu:.0f}",
        "size": size,
        "dice": f"{s.dice:.3f}" if isinstance(s.dice, float) else "–",
        "marks": [mark for mark in marks if mark.value == s.value],
        "codes": ", ".join(f"{scheme} {code}" for scheme, code in s.codes.items()),
    }


def _stages(report: Report) -> list[dict[str, Any]]:
    """Return the stages with their seconds and the width of a bar in percent."""
    longest = max([*report.seconds.values(), 1e-9])
    return [
        {"name": name.replace("_", " "), "seconds": seconds, "width": round(100 * seconds / longest, 1)}
        for name, seconds in report.seconds.items()
    ]
