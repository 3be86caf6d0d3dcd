"""Define a session that thresholds intensities, so that every label is known without a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from gcis_runtime import Bundle, Segmenter, open_bundle
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from tests.support.bundles_and_images import write_bundle

LOW, HIGH = -4000.0, 4000.0
"""Intensity window in HU: wider than CT, so that a linear image is not clipped."""


class ThresholdSession:
    """Session with structure 1 where HU > `hu` and structure 2 where HU < -`hu`; logits are in HU."""

    name, version, device, precision, threads, batch = "onnx", "0", "cpu", "fp32", 1, 1
    notes: tuple[str, ...] = ()

    def __init__(self, hu: float = 25.0, *, before: Callable[[], None] = lambda: None) -> None:
        self.hu, self.before, self.closed = hu, before, 0

    def run(self, window: np.ndarray) -> np.ndarray:
        """Compare each voxel with both thresholds."""
        self.before()
        hu = window[:, 0] * np.float32(HIGH - LOW) + np.float32(LOW)
        return np.stack([hu - np.float32(self.hu), -hu - np.float32(self.hu)], axis=1)

    def close(self) -> None:
        """Count the calls."""
        self.closed += 1


def threshold_bundle(**preprocess: Any) -> Bundle:
    """Return a bundle with the intensity window of the fake session and the given preprocessing."""
    bundle = _bundle()
    spec = msgspec.structs.replace(bundle.manifest.preprocess, intensity_window=(LOW, HIGH), **preprocess)
    window = msgspec.structs.replace(bundle.manifest.window, overlap=0.25)
    return Bundle(
        folder=bundle.folder,
        manifest=msgspec.structs.replace(bundle.manifest, preprocess=spec, window=window),
        sha256=bundle.sha256,
    )


def threshold_segmenter(session: ThresholdSession | None = None, **preprocess: Any) -> Segmenter:
    """Return a segmenter around the fake session."""
    return Segmenter(LoadedEngine(threshold_bundle(**preprocess), session or ThresholdSession()))


@cache
def _bundle() -> Bundle:
    with TemporaryDirectory() as folder:
        return open_bundle(write_bundle(Path(folder) / "b.gcis"))
