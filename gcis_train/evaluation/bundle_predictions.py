"""Predict with a bundle, by the same code as `gcis-run`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from gcis_runtime import Segmenter, read_volume
from gcis_runtime.choices import DEFAULT_RESTORE, EngineChoice, PrecisionChoice, Restore
from gcis_train.data.datalist import Case
from gcis_train.evaluation.evaluate import Prediction, Source


@contextlib.contextmanager
def bundle_source(
    bundle: str,
    *,
    engine: EngineChoice,
    precision: PrecisionChoice,
    device: str = "cpu",
    restore: Restore = DEFAULT_RESTORE,
    raw: bool = False,
) -> Iterator[Source]:
    """Open a bundle and yield the source of its predictions.

    With `raw`, the bundle's post-processing rules are not applied.

    Raises:
        BundleError: The bundle is missing or damaged.
        EngineError: The engine is not available.
    """
    with Segmenter.open(bundle, engine=engine, precision=precision, device=device) as segmenter:
        values = {label.prompt: label.value for label in segmenter.bundle.manifest.labels}

        def predict(case: Case) -> Prediction:
            labels = segmenter.segment(read_volume(case.image), restore=restore, raw=raw).labels
            return Prediction(labels=labels, values=values)

        notes: dict[str, Any] = {
            "bundle_sha256": segmenter.bundle.sha256,
            "pipeline": segmenter.engine.text,
            "restore": restore,
        }
        rules = {label.prompt: label.post.text for label in segmenter.bundle.manifest.labels if label.post}
        if rules:
            notes |= {"raw": True} if raw else {"post": rules}
        yield Source(predict=predict, prompts=values.keys(), notes=notes)
