"""Name the result files of a case as clients request them, and remove paths of the server from its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gcis_runtime.pipeline.report import Report
from gcis_runtime.runs.outputs import RTSTRUCT, SEG, Job

CASE = "image"
"""Name of every case of the service; file names of clients may contain names of patients."""
REPORT, STATISTICS = "report.json", "statistics.csv"
_TYPES = {
    ".gz": "application/gzip",
    ".nii": "application/octet-stream",
    ".nrrd": "application/octet-stream",
    ".mha": "application/octet-stream",
    ".dcm": "application/dicom",
    ".json": "application/json",
    ".png": "image/png",
    ".csv": "text/csv",
    ".html": "text/html",
}


def media_type(name: str) -> str:
    """Return the media type of a result."""
    return _TYPES.get(Path(name).suffix, "application/octet-stream")


def single_files(job: Job) -> dict[str, Path]:
    """Return the path of each result that is one file, by name; it exists if it was requested."""
    found = {REPORT: job.report, "preview.png": job.preview, STATISTICS: job.statistics}
    found["report.html"] = job.page
    for kind, path in job.formats:
        found[{SEG: "seg.dcm", RTSTRUCT: "rtstruct.dcm"}.get(kind, f"label.{kind}")] = path
    if job.measurements is not None:
        found["sr.dcm"] = job.measurements
    return found


def result_files(job: Job) -> dict[str, Path]:
    """Return the path of each result that exists, by name, with the files of masks and probabilities."""
    found = {name: path for name, path in single_files(job).items() if path.is_file()}
    for name, folder in (("masks", job.masks), ("probability", job.probabilities)):
        if folder.is_dir():
            found |= {f"{name}/{path.name}": path for path in sorted(folder.iterdir()) if path.is_file()}
    return found


def public_report(report: Report, files: Mapping[str, Path]) -> dict[str, Any]:
    """Return a report with the names of results instead of paths of the server."""
    names = {str(path): name for name, path in files.items()}

    def renamed(value: Any) -> Any:
        if isinstance(value, str):
            return names.get(value, value)
        if isinstance(value, dict):
            return {key: renamed(part) for key, part in value.items()}
        return value

    document: dict[str, Any] = msgspec.to_builtins(report)
    for field in ("labels", "masks", "probability", "statistics", "preview", "report_html"):
        if field in document:
            document[field] = renamed(document[field])
    if "dicom" in document:
        document["dicom"]["files"] = renamed(document["dicom"].get("files", {}))
    document["image"] = CASE
    if "truth" in document:
        document["truth"] = "truth"
    return document
