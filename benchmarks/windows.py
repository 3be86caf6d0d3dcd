"""What leaving windows out saves, and what it costs: constant ones, body crop, coarse passes, a region."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import environment
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.images.files import read_volume
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.result import Segmentation
from gcis_runtime.pipeline.segmenter import Segmenter
from gcis_runtime.runs.scores import dice_by_value
from gcis_runtime.spec import Foreground

FACTORS = (1.5, 2.0)


def measure(
    bundle: str,
    images: Sequence[Path],
    labels: Sequence[Path],
    *,
    engine: str,
    structure: str | None,
    spacing: float | None,
    margin: int | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Segment images whole and in every partial way, one after another in this process.

    Args:
        bundle: The bundle.
        images: CTs.
        labels: True label maps by the bundle's values, one an image, or none.
        engine: The runtime's engine.
        structure: Structure of the row `--roi STRUCTURE`; None takes the bundle's first.
        spacing: Voxel size in mm to run the network at in place of its own: more windows, and labels that
            say little of the patient; None leaves it.
        margin: Of a foreground rule to run with in place of the bundle's own; None leaves it.
        say: Told what is happening.

    Returns:
        The record, ready for JSON.
    """
    rows: list[dict[str, Any]] = []
    opened = open_bundle(find_bundle(bundle, ()))
    if spacing is not None:
        spec = msgspec.structs.replace(opened.manifest.preprocess, spacing=(spacing,) * 3)
        opened = replace(opened, manifest=msgspec.structs.replace(opened.manifest, preprocess=spec))
    if margin is not None:
        spec = msgspec.structs.replace(opened.manifest.preprocess, foreground=Foreground(margin=margin))
        opened = replace(opened, manifest=msgspec.structs.replace(opened.manifest, preprocess=spec))
    with Segmenter.open(opened, engine=engine) as segmenter:
        roi = structure or segmenter.bundle.manifest.labels[0].name
        ways: dict[str, dict[str, Any]] = {
            "whole": {"body_crop": False},
            "--body-crop": {"body_crop": True},
            **{f"--coarse {factor:g}": {"coarse": factor} for factor in FACTORS},
            f"--roi {roi!r}": {"roi": roi},
        }
        segmenter.segment(read_volume(images[0]))  # the engine's first runs are slower
        for number, image in enumerate(images):
            say(image.name)
            volume = read_volume(image)
            truth = read_volume(labels[number]).array if labels else None
            rows += _rows(segmenter, volume, truth, ways, name=image.name)
        engine_text = segmenter.engine.text
    return {
        "what": "windows" if spacing is None else f"windows_{spacing:g}mm",
        "environment": environment(),
        "bundle": bundle,
        "engine": engine_text,
        "crop_foreground": margin,
        "note": "whole lays windows on all of the image; other ways follow the bundle's foreground rule, if "
        "it has one, and count the windows that it saves as skipped. seconds: everything but reading and "
        "writing, coarse pass and search for the body included. "
        "computed: windows that the network ran, those of the coarse pass included. labels_changed and "
        "dice_with_whole are against the whole run; the latter is the structures' mean, None where that "
        "found none. One run each, in turn; other processes were busy, so compare ratios.",
        "rows": rows,
        "sums": _sums(rows),
    }


def _rows(
    segmenter: Segmenter,
    volume: Volume,
    truth: NDArray[Any] | None,
    ways: dict[str, dict[str, Any]],
    *,
    name: str,
) -> list[dict[str, Any]]:
    """Run one image in every way."""
    found: list[dict[str, Any]] = []
    whole: NDArray[Any] | None = None
    for way, options in ways.items():
        begun, cpu = time.perf_counter(), time.process_time()
        result = segmenter.segment(volume, **options)
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        whole = result.labels if whole is None else whole
        found.append(
            _row(name, way, result, whole, truth) | {"seconds": round(wall, 3), "cpu": round(cpu, 3)}
        )
    return found


def _row(
    name: str, way: str, result: Segmentation, whole: NDArray[Any], truth: NDArray[Any] | None
) -> dict[str, Any]:
    values = [structure.value for structure in result.structures]
    passes = [result.region[key] for key in ("coarse", "roi_structure") if key in result.region]
    coarse = sum(found["windows"] for found in passes)
    row: dict[str, Any] = {
        "image": name,
        "voxels": list(whole.shape),
        "way": way,
        "windows": result.windows,
        "skipped": result.windows_skipped + result.crop.get("windows_saved", 0),
        "constant": result.windows_reused,
        "computed": result.windows - result.windows_reused + coarse,
        "missed": [missing for found in passes for missing in found["missing"]],
        "labels_changed": float(np.mean(result.labels != whole)),
        "dice_with_whole": _mean(dice_by_value(result.labels, whole, values)),
    }
    if truth is not None:
        row["dice"] = _mean(dice_by_value(result.labels, truth, values))
    return row


def _mean(scores: dict[int, float | None]) -> float | None:
    known = [score for score in scores.values() if score is not None]
    return round(float(np.mean(known)), 4) if known else None


def _sums(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add up each way over all images."""
    sums = []
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way]
        first = [row for row in rows if row["way"] == rows[0]["way"]]
        sums.append(
            {
                "way": way,
                **{
                    name: sum(row[name] for row in mine)
                    for name in ("windows", "skipped", "constant", "computed")
                },
                "cpu_of_whole": round(sum(r["cpu"] for r in mine) / sum(r["cpu"] for r in first), 3),
                "most_labels_changed": max(row["labels_changed"] for row in mine),
                "mean_dice_with_whole": _average(row["dice_with_whole"] for row in mine),
                "mean_dice": _average(row.get("dice") for row in mine),
            }
        )
    return sums


def _average(scores: Any) -> float | None:
    known = [score for score in scores if score is not None]
    return round(float(np.mean(known)), 4) if known else None
