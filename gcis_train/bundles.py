"""A bundle as a segmenter for evaluation: the same code path as `gcis-run`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from gcis_runtime import Segmenter, read_volume
from gcis_train.evaluate import Segment


@contextlib.contextmanager
def bundle_segment(
    bundle: str, *, engine: str, precision: str
) -> Iterator[tuple[Segment, dict[str, int], dict[str, Any]]]:
    """Open a bundle; yields its segment function, the value of each prompt, and notes for the record.

    Raises:
        BundleError: No such bundle, or a damaged one.
        EngineError: The engine cannot be had.
    """
    with Segmenter.open(bundle, engine=engine, precision=precision) as segmenter:

        def segment(image: Path) -> npt.NDArray[Any]:
            return segmenter.segment(read_volume(image)).labels

        values = {label.prompt: label.value for label in segmenter.bundle.manifest.labels}
        notes = {"bundle_sha256": segmenter.bundle.sha256, "pipeline": segmenter.engine.text}
        yield segment, values, notes
