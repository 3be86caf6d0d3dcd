"""Define the limits of a service."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a service.

    Attributes:
        queue: Jobs that may be queued; more are refused with status 429.
        uploads: Uploads at the same time. A finished upload always becomes a job, so that `queue + uploads`
            jobs may be queued.
        upload_bytes: Largest body of a request.
        upload_seconds: Longest time of a whole body.
        idle_seconds: Longest time in which nothing of a body arrives.
        attempts: Number of times that a job is started, if the process ends while it runs.
        keep_seconds: Age at which ended jobs are removed.
        keep_bytes: Size of all ended jobs, above which the oldest are removed.
        grace_seconds: Time for running jobs to finish after SIGTERM; then they are queued again.
    """

    queue: int = 16
    uploads: int = 4
    upload_bytes: int = 4 << 30
    upload_seconds: float = 600.0
    idle_seconds: float = 60.0
    attempts: int = 3
    keep_seconds: float = 24 * 3600.0
    keep_bytes: int = 20 << 30
    grace_seconds: float = 20.0
