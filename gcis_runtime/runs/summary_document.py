"""Define the content of `summary.json` and `summary.csv`, of a whole run or of a shard, and write both.

`docs/schema/summary.v1.schema.json` is the JSON Schema of the former.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec
from msgspec import UNSET, UnsetType

from gcis_runtime.pipeline.report_parts import BundleReport, WindowsReport
from gcis_runtime.runs import statistics
from gcis_runtime.runs.shard import Shard
from gcis_runtime.system.json_files import write_json

JSON, CSV, STATISTICS = "summary.json", "summary.csv", "statistics.csv"
SUMMARY_VERSION: Final = 1
_STAGES = ("read", "preprocess", "network", "blend", "restore", "write")

Status = Literal["done", "skipped", "failed", "waiting"]
"""`"skipped"`: finished by an earlier run. `"waiting"`: not finished yet."""


class NamedStructure(msgspec.Struct, frozen=True, kw_only=True):
    """Label value and name of a structure."""

    value: int
    name: str


class CaseSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One case. Fields after `status` are unset until it is finished or has failed.

    Attributes:
        case: Name of the case.
        image: Path of the image.
        status: Status.
        labels: Path of the label map.
        volumes_ml: Volume of each structure in mL, by label value.
        seconds: Seconds per stage.
        windows: Numbers of windows.
        warnings: Warnings about the image or the run.
        steps: One line per step that was taken for lack of memory.
        error: Error message.
        study_uid: StudyInstanceUID; unset for an image that is not DICOM, as is the next.
        series_uid: SeriesInstanceUID.
    """

    case: str
    image: str
    status: Status
    labels: str | UnsetType = UNSET
    volumes_ml: dict[str, float] | UnsetType = UNSET
    seconds: dict[str, float] | UnsetType = UNSET
    windows: WindowsReport | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET
    steps: list[str] | UnsetType = UNSET
    error: str | UnsetType = UNSET
    study_uid: str | UnsetType = UNSET
    series_uid: str | UnsetType = UNSET


def count_statuses(cases: Iterable[CaseSummary]) -> dict[Status, int]:
    """Return the number of cases of each status."""
    found = Counter(case.status for case in cases)
    return {status: found[status] for status in get_args(Status)}


class ShardSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a run that a summary describes.

    Attributes:
        number: Number of the shard, from 1.
        count: Number of shards.
        images: Number of images of all shards.
        list_sha256: Hash of the names and paths of all images, in order; equal for the shards of one run.
    """

    number: int
    count: int
    images: int
    list_sha256: str


class SummaryDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `summary.json`.

    Attributes:
        schema: Version of this format.
        bundle: The bundle.
        engine: Description of the engine.
        started: Start of the run, ISO 8601 with time zone.
        updated: Time of the last update.
        counts: Number of cases by status.
        structures: Structures that are segmented.
        peak_memory_bytes: Peak resident memory of a process of the run so far; None if unknown.
        cases: All cases, in order.
        shard: The part of the run; unset for the whole run.
    """

    schema: Literal[1] = SUMMARY_VERSION
    bundle: BundleReport
    engine: str
    started: str
    updated: str
    counts: dict[Status, int]
    structures: list[NamedStructure]
    peak_memory_bytes: int | None
    cases: list[CaseSummary]
    shard: ShardSummary | UnsetType = UNSET


@dataclass(frozen=True, kw_only=True)
class SummaryFiles:
    """The files of a summary.

    Attributes:
        json: The document.
        csv: One row per case.
        statistics: One row per structure and case.
        page: The page, which `summary_page` writes.
    """

    json: Path
    csv: Path
    statistics: Path
    page: Path

    @classmethod
    def of(cls, folder: Path, shard: Shard | ShardSummary | None = None) -> SummaryFiles:
        """Return the files in a folder, of a whole run or of a shard."""
        part = "" if shard is None else f".{Shard(number=shard.number, count=shard.count).suffix}"
        names = (Path(name) for name in (JSON, CSV, STATISTICS))
        json, csv, statistics = (folder / f"{name.stem}{part}{name.suffix}" for name in names)
        return cls(json=json, csv=csv, statistics=statistics, page=csv.with_suffix(".html"))

    def write(
        self,
        document: SummaryDocument,
        statistics_rows: Sequence[Sequence[Any]] | None,
        *,
        escaped: bool = False,
    ) -> None:
        """Write the files, each completely or not at all.

        Args:
            document: The summary.
            statistics_rows: Rows of the table of statistics, without its header; None writes no such table.
            escaped: These rows were read from such tables.

        Raises:
            OutputError: A file cannot be written.
        """
        write_json(self.json, document)
        statistics.write_csv(self.csv, [_header(document), *(_row(document, c) for c in document.cases)])
        if statistics_rows is not None:
            statistics.write_csv(self.statistics, [statistics.COLUMNS, *statistics_rows], escaped=escaped)


def _header(document: SummaryDocument) -> list[str]:
    seconds = [f"{stage}_s" for stage in (*_STAGES, "other", "total")]
    return [
        "case", "image", "status", "labels", "error", "warnings",
        *(f"{structure.name} mL" for structure in document.structures), *seconds,
        "study_uid", "series_uid",
    ]  # fmt: skip


def _row(document: SummaryDocument, case: CaseSummary) -> list[Any]:
    volumes: Mapping[str, float] = case.volumes_ml or {}
    seconds: Mapping[str, float] = case.seconds or {}
    times: list[Any] = [seconds.get(stage, "") for stage in _STAGES]
    if seconds:
        total = sum(seconds.values())
        times += [round(total - sum(seconds.get(s, 0) for s in _STAGES), 4), round(total, 4)]
    else:
        times += ["", ""]
    return [
        case.case, case.image, case.status, case.labels or "", case.error or "",
        "; ".join((*(case.steps or ()), *(case.warnings or ()))),
        *(volumes.get(str(structure.value), "") for structure in document.structures),
        *times,
        case.study_uid or "", case.series_uid or "",
    ]  # fmt: skip


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of `summary.json`, generated from the types that write it."""
    title = f"summary.json of gcis-run over many images, version {SUMMARY_VERSION}"
    made = msgspec.json.schema(SummaryDocument)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title} | made
