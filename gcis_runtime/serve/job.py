"""Define the record of a job, which is stored in its folder, and the view of it that clients receive."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from gcis_runtime.serve.problems import Problem
from gcis_runtime.serve.request import JobRequest

RECORD_VERSION: Final = 1

State = Literal["queued", "running", "done", "failed", "cancelled"]
Stage = Literal["reading", "waiting", "computing", "writing"]
ENDED: Final[frozenset[State]] = frozenset(("done", "failed", "cancelled"))
"""States that do not change any more."""


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it is stored in `job.json`.

    Attributes:
        schema: Version of this format.
        id: 32 hexadecimal digits.
        state: State when the file was written.
        created: Time of acceptance, seconds since 1970.
        updated: Time of the last change of state.
        bundle: Name of the bundle.
        request: Options.
        source: Path of the image, relative to the folder of the job; absolute below an allowed root.
        roi: Path of a mask, relative to the folder of the job.
        truth: Path of a true label map, relative to the folder of the job.
        attempts: Number of times that the job was started.
        error: Why it failed.
        key: SHA-256 hash of the idempotency key.
        digest: SHA-256 hash of what was submitted with the key.
        cancelled: Whether a client cancelled it, also if it has not ended yet.
        origin: Data of the program that submitted the job, such as a DICOM node; not shown to clients.
    """

    schema: Literal[1] = RECORD_VERSION
    id: str
    state: State = "queued"
    created: float
    updated: float
    bundle: str
    request: JobRequest
    source: str
    roi: str | None = None
    truth: str | None = None
    attempts: int = 0
    error: Problem | None = None
    key: str | None = None
    digest: str | None = None
    cancelled: bool = False
    origin: dict[str, str] = {}

    @property
    def ended(self) -> bool:
        """Whether the state does not change any more."""
        return self.state in ENDED


class JobProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of a running job.

    Attributes:
        stage: `"waiting"` means that the image was read and another job computes.
        windows: Number of finished windows.
        total: Number of all windows; 0 before it is known.
    """

    stage: Stage
    windows: int = 0
    total: int = 0


class ForecastView(msgspec.Struct, frozen=True, kw_only=True):
    """The forecast of a job; see `pipeline.forecast.Forecast`."""

    text: str
    windows: int
    seconds: float | None
    host_bytes: int
    device_bytes: int | None
    runs: int
    allowed_bytes: int | None = None
    file_bytes: int | None = None
    steps: tuple[str, ...] = ()


class JobView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job as clients see it.

    Attributes:
        id: Identifier.
        state: State.
        created: Time of acceptance, ISO 8601.
        updated: Time of the last change of state, ISO 8601.
        bundle: Name of the bundle.
        request: Options.
        links: Path of the job, its events and each result, by name.
        attempts: Number of times that the job was started.
        position: Number of jobs that start before this one; only while it is queued.
        progress: Progress; only while it runs.
        forecast: Forecast, from the start of the computation on.
        report: The report, as in `report.json`; only if it is done.
        error: Why it failed.
        notice: Notice about the use of results.
    """

    id: str
    state: State
    created: str
    updated: str
    bundle: str
    request: JobRequest
    links: dict[str, str]
    attempts: int = 0
    position: int | None = None
    progress: JobProgress | None = None
    forecast: ForecastView | None = None
    report: dict[str, Any] | None = None
    error: Problem | None = None
    notice: str = "research software, not a medical device"
