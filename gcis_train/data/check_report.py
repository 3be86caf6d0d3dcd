"""Report the results of `gcis-train datalist check` as a table, as JSON and as a sheet of pictures."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gcis_runtime.images.files import read_volume
from gcis_runtime.pages.preview import draw_overlay
from gcis_runtime.pipeline.result import Structure
from gcis_runtime.system.atomic_files import replacing
from gcis_runtime.text import table
from gcis_train.colors import distinct_colors
from gcis_train.data.check import CaseFacts, Problem
from gcis_train.data.datalist import Case
from gcis_train.data.masks import read_masks

_TITLE = 26


def summary(facts: Sequence[CaseFacts], problems: Sequence[Problem]) -> dict[str, Any]:
    """Return all results as JSON values."""
    grids = [f.grid for f in facts if f.grid is not None]
    hu = [f.hu for f in facts if f.hu is not None]
    prompts = dict.fromkeys(prompt for f in facts for prompt in f.volumes)
    return {
        "errors": sum(p.level == "error" for p in problems),
        "warnings": sum(p.level == "warning" for p in problems),
        "cases": dict(Counter(f.split for f in facts)),
        "orientation": dict(Counter(g.orientation for g in grids)),
        "spacing_mm": _range([g.spacing for g in grids]),
        "shape": _range([g.shape for g in grids]),
        "label_geometry": _label_geometry(facts),
        "hu": [min(low for low, _ in hu), max(high for _, high in hu)] if hu else None,
        "structures": {prompt: _structure(prompt, facts) for prompt in prompts},
        "problems": [dataclasses.asdict(p) for p in problems],
    }


def _label_geometry(facts: Sequence[CaseFacts]) -> dict[str, Any]:
    """Return the number of cases by the header that places their labels, and where both headers differ."""
    moved = [f for f in facts if f.moved]
    return {
        "image": sum(f.moved_mm is not None for f in facts),
        "headers_differ": [f"{f.split} {f.name}" for f in moved],
        "largest_mm": round(max((f.moved_mm or 0.0 for f in moved), default=0.0), 3),
    }


def _structure(prompt: str, facts: Sequence[CaseFacts]) -> dict[str, Any]:
    volumes = [f.volumes[prompt] for f in facts if prompt in f.volumes]
    present = [v for v in volumes if v > 0]
    counts = Counter(f.split for f in facts if prompt in f.volumes)
    return {
        "training": counts["training"],
        "validation": counts["validation"],
        "empty": len(volumes) - len(present),
        "ml": [round(float(v), 3) for v in (min(present), np.median(present), max(present))]
        if present
        else None,
    }


def _range(values: Sequence[Sequence[float]]) -> list[list[float]] | None:
    """Return the smallest and largest value per axis."""
    if not values:
        return None
    return [[round(float(n), 3) for n in side] for side in (np.min(values, axis=0), np.max(values, axis=0))]


def text_table(result: dict[str, Any]) -> str:
    """Return the results without the problems as text for a terminal."""
    rows = [["structure", "training", "validation", "empty", "median mL", "smallest", "largest"]]
    for prompt, s in result["structures"].items():
        low, middle, high = (f"{v:.1f}" for v in s["ml"]) if s["ml"] else ("-", "-", "-")
        rows.append([prompt, str(s["training"]), str(s["validation"]), str(s["empty"]), middle, low, high])
    lines = [table(rows, right=range(1, 7))] if result["structures"] else []
    lines.append("cases        " + ", ".join(f"{n} {split}" for split, n in result["cases"].items()))
    lines.append("orientation  " + ", ".join(f"{code} {n}" for code, n in result["orientation"].items()))
    for name, key, form in (("spacing mm", "spacing_mm", "{:g}"), ("voxels", "shape", "{:.0f}")):
        if result[key]:
            low, high = (" x ".join(form.format(n) for n in side) for side in result[key])
            lines.append(f"{name:<13}{low}" + (f" to {high}" if low != high else ""))
    placed = result["label_geometry"]
    if placed["image"]:
        differ = len(placed["headers_differ"])
        most = f", by up to {placed['largest_mm']:g} mm" if differ else ""
        lines.append(
            f"labels       placed by the header of the image in {placed['image']} cases; "
            f"their own headers differ in {differ}{most}"
        )
    if result["hu"]:
        lines.append(f"HU           {result['hu'][0]:g} to {result['hu'][1]:g}")
    return "\n".join(lines)


def write_sheet(path: Path, cases: Sequence[tuple[str, Case]]) -> None:
    """Draw cases with their labels, one below the other, as one PNG, written atomically.

    Args:
        path: The PNG.
        cases: Titles and cases without errors.

    Raises:
        OutputError: The file cannot be written.
    """
    prompts = tuple(dict.fromkeys(t.prompt for _, case in cases for t in case.targets))
    colors = dict(zip(prompts, distinct_colors(prompts), strict=True))
    pictures = [_picture(title, case, colors) for title, case in cases]
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)))
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    with replacing(path) as temporary, temporary.open("wb") as file:
        sheet.save(file, format="PNG")


def spread(facts: Sequence[CaseFacts], count: int) -> list[int]:
    """Return the indices of up to `count` cases without errors, evenly spaced over the list."""
    usable = [index for index, f in enumerate(facts) if not f.broken]
    chosen = np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(int)
    return [usable[i] for i in chosen]


def _picture(title: str, case: Case, colors: dict[str, tuple[int, int, int]]) -> Image.Image:
    """Draw one case under its title; `colors` are by prompt."""
    volume = read_volume(case.image)
    labels = np.zeros(volume.shape, np.uint16)
    structures = []
    masks = read_masks(case.targets, like=volume)
    for value, (target, mask) in enumerate(zip(case.targets, masks, strict=True), start=1):
        labels[mask] = value
        voxels = int(mask.sum())
        structures.append(
            Structure(
                value=value,
                name=target.prompt,
                prompt=target.prompt,
                color=colors[target.prompt],
                codes={},
                voxels=voxels,
                volume_ml=voxels * volume.voxel_ml,
            )
        )
    drawn = draw_overlay(volume, labels, structures)
    whole = Image.new("RGB", (drawn.width, drawn.height + _TITLE), (40, 40, 40))
    whole.paste(drawn, (0, _TITLE))
    draw = ImageDraw.Draw(whole)
    draw.text((12, 7), title, fill=(255, 255, 255), font=ImageFont.load_default())
    return whole
