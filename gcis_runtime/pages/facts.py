"""List what ran, where and how long, and the origin of the bundle, as names and values for tables."""

from __future__ import annotations

import math
import platform
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
from msgspec import UNSET

from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.report import Report
from gcis_runtime.pipeline.report_parts import CoarseReport, EngineReport, MeasuredReport
from gcis_runtime.system.cpus import cpu_name
from gcis_runtime.system.memory import bytes_text
from gcis_runtime.text import counted

Facts = list[tuple[str, str]]


def image_facts(report: Report, volume: Volume) -> Facts:
    """Return the facts about the image."""
    shape, spacing = volume.shape, volume.spacing
    extent = (n * mm / 10 for n, mm in zip(shape, spacing, strict=True))
    facts = [
        ("File", Path(report.image).name),
        ("Grid", f"{_by(shape)} voxels of {_by(round(s, 3) for s in spacing)} mm"),
        ("Extent", f"{_by(round(e, 1) for e in extent)} cm"),
        ("Axes", f"{''.join(nib.aff2axcodes(volume.affine))} (direction of increasing index)"),
        ("Intensities", f"{float(volume.array.min()):.0f} to {float(volume.array.max()):.0f} HU"),
    ]
    if report.dicom is not UNSET:
        facts += [
            ("DICOM series", f"{report.dicom.series}, {report.dicom.slices} slices"),
            ("DICOM study", report.dicom.study),
        ]
    return facts


def engine_facts(report: Report) -> Facts:
    """Return the facts about the computation."""
    engine = report.engine
    facts = [
        ("Engine", engine_text(engine)),
        ("Processor", f"{cpu_name()}, {platform.system()} {platform.machine()}"),
        ("Why this precision", engine.reason),
        ("Settings of the engine", engine.settings),
        ("Labels on the image's grid", report.restore),
        ("Windows", _windows(report)),
        ("Region", _region(report)),
        ("Forecast", _forecast(report)),
        ("Peak memory", bytes_text(report.peak_memory_bytes) if report.peak_memory_bytes else ""),
        ("Steps for lack of memory", "; ".join(report.steps)),
    ]
    return [(name, text) for name, text in facts if text]


def engine_text(engine: EngineReport) -> str:
    """Return an engine as text, such as `openvino 2026.4 on cpu, bf16, 2 threads`."""
    threads = f", {counted(engine.threads, 'thread')}" if engine.threads else ""
    return f"{engine.name} {engine.version} on {engine.device}, {engine.precision}{threads}"


def bundle_facts(report: Report, manifest: Manifest) -> Facts:
    """Return the facts about the bundle, its weights and the software."""
    origin = manifest.provenance
    facts = [
        ("Bundle", f"{report.bundle.name}, exported {manifest.created}"),
        ("SHA-256 of the manifest", report.bundle.sha256),
        ("SHA-256 of the checkpoint", origin.checkpoint_sha256),
        ("Text model", f"{origin.text_model}, weights {origin.text_weights}"),
        *((f"Training: {key.replace('_', ' ')}", str(value)) for key, value in origin.training.items()),
        ("Notes of the export", "; ".join(manifest.notes or ())),
        ("Exported with", ", ".join(f"{name} {number}" for name, number in manifest.versions.items())),
        ("Segmented with", f"gcis {version('gcis')}, Python {platform.python_version()}"),
    ]
    return [(name, text) for name, text in facts if text]


def parity_table(manifest: Manifest) -> list[list[str]]:
    """Return the comparisons of the export: header first; empty if the bundle has none."""
    if not manifest.parity:
        return []
    rows = [["Compared", "with", "precision", "largest difference", "limit", "labels changed", "limit", ""]]
    rows += [
        [
            row.stage, row.reference, row.precision, f"{100 * row.relative:.2g}%",
            f"{100 * row.limit_relative:.2g}%", f"{100 * row.decided:.4f}%",
            f"{100 * row.tolerance_labels:g}%", "passed" if row.passed else "FAILED",
        ]
        for row in manifest.parity
    ]  # fmt: skip
    return rows


def _by(values: object) -> str:
    return " × ".join(f"{value:g}" for value in values)  # type: ignore[attr-defined]


def _windows(report: Report) -> str:
    windows = report.windows
    text = counted(windows.total, "window")
    if windows.reused:
        text += f", {windows.reused} of them constant and computed once"
    return text + (f"; {windows.skipped} further ones outside the region" if windows.skipped else "")


def _region(report: Report) -> str:
    region = report.region
    texts = [
        f"coarse pass: {one.how}, missed {', '.join(one.missing) or 'nothing'}"
        for one in (region.roi_structure, region.coarse)
        if isinstance(one, CoarseReport)
    ]
    if isinstance(region.within, str):
        box = "nothing" if not isinstance(region.box, list) else ", ".join(f"{a}:{b}" for a, b in region.box)
        texts.insert(0, f"{box} ({region.within}); every label outside is background")
    return "; ".join(texts)


def _forecast(report: Report) -> str:
    forecast = report.forecast
    parts = []
    if isinstance(forecast.seconds, float) and math.isfinite(forecast.seconds):
        parts.append(f"{forecast.seconds:.1f} s")
    if isinstance(forecast.host_bytes, int):
        parts.append(f"at most {bytes_text(forecast.host_bytes)}")
    if not parts:
        return ""
    text = ", ".join(parts)
    if isinstance(forecast.measured, MeasuredReport):
        text += f"; measured {forecast.measured.seconds:.1f} s"
        if forecast.measured.host_bytes:
            text += f", {bytes_text(forecast.measured.host_bytes)}"
    return text
