"""Run the images of `gcis-run` on a service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gcis_runtime.runs.callbacks import RunCallbacks
    from gcis_runtime.runs.options import RunOptions
    from gcis_runtime.runs.outcome import RunResult
    from gcis_runtime.runs.shard import Shard


def run_on_service(
    server: str,
    token_file: Path | None,
    images: Sequence[Path],
    *,
    seed: int | None,
    bundle: str | None,
    prompts: Sequence[str],
    options: RunOptions,
    out: str | None,
    formats: Sequence[str],
    resume: bool,
    shard: Shard | None,
    callbacks: RunCallbacks,
) -> RunResult:
    """Segment images, or a generated phantom, on a service; see `run_images` and `run_phantom`.

    Raises:
        GcisError: The service does not answer, or see `run_images`.
    """
    from gcis_runtime.runs.phantom import write_phantom
    from gcis_runtime.runs.run_images import run_elsewhere
    from gcis_runtime.serve.access import read_token
    from gcis_runtime.serve.client.cohort import open_service

    token = None if token_file is None else read_token(token_file)
    if seed is not None:
        image, truth = write_phantom(seed, Path(str(out)))
        images, out, options = [image], f"{out}/", replace(options, truth=truth)
    cohort = open_service(server, token, bundle=bundle, prompts=prompts, options=options)
    return run_elsewhere(
        images, cohort, options=options, out=out, formats=formats, resume=resume, shard=shard,
        callbacks=callbacks,
    )  # fmt: skip
