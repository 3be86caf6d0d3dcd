"""Label maps on disk as a source of predictions: those of `gcis-run`, or any other program's.

A case's file is found by the image's name: `ct7.nii.gz` has `ct7_seg.nii.gz` (what `gcis-run` writes) or
`ct7.nii.gz` in the folder. Which value means which structure stands in the JSON file beside it or in the
folder's `manifest.json`, or is given.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from gcis_runtime.bundles.manifest import MANIFEST_FILE
from gcis_runtime.errors import DataError
from gcis_runtime.images.suffixes import READABLE
from gcis_train.data.datalist import Case, stem
from gcis_train.data.images import read_array, read_grid
from gcis_train.evaluation.evaluate import Prediction, Source

_MAPPING = '{"mandible": 7, …}, or the JSON of gcis-run, a bundle\'s manifest or an nnU-Net dataset.json'


def folder_source(
    folder: Path, cases: Sequence[Case], *, labels: str | None = None, allow_missing: bool = False
) -> Source:
    """Return the source of a folder's label maps.

    Args:
        folder: Where they lie.
        cases: What will be asked for: a missing label map is found before anything is scored.
        labels: `mandible=7,spinal cord=2`, or a JSON file; None reads the JSON beside each label map.
        allow_missing: Leave out cases without a label map instead of refusing them.

    Raises:
        DataError: No such folder, a missing label map, or `labels` cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", expected="the folder of the label maps")
    missing = [case.name for case in cases if find(folder, case) is None]
    if missing and not allow_missing:
        raise DataError(
            f"{folder} has no label map of {len(missing)} of {len(cases)} cases, the first {missing[0]}",
            expected=" or ".join(f"{missing[0]}{end}" for end in ("_seg.nii.gz", ".nii.gz")),
            fix="Segment them with gcis-run IMAGE -o FOLDER, or leave such cases out with --allow-missing.",
        )
    given = None if labels is None else read_values(labels)
    notes: dict[str, Any] = {"pipeline": "label maps on disk", "predictions": folder.resolve().name}

    def predict(case: Case) -> Prediction | None:
        path = find(folder, case)
        if path is None:
            return None
        return Prediction(labels=_read(path, case), values=_values_of(path) if given is None else given)

    return Source(predict=predict, prompts=None if given is None else given.keys(), notes=notes)


def find(folder: Path, case: Case) -> Path | None:
    """Return the label map of a case, or None."""
    image = case.image.resolve()
    for end in ("_seg", ""):
        for suffix in READABLE:
            path = folder / f"{case.name}{end}{suffix}"
            if path.is_file() and path.resolve() != image:  # results may lie beside the images
                return path
    return None


def read_values(text: str) -> dict[str, int]:
    """Read which value means which structure.

    Args:
        text: `mandible=7,spinal cord=2`, or the path of a JSON file.

    Raises:
        DataError: Neither can be read.
    """
    if "=" not in text:
        return _file_values(Path(text))
    pairs = [part.rpartition("=") for part in text.split(",")]
    try:
        return _checked({name.strip(): int(value) for name, _, value in pairs}, source="--labels")
    except ValueError as error:
        raise DataError(
            "--labels cannot be read", received=repr(text), expected="mandible=7,spinal cord=2 or a JSON file"
        ) from error


def _values_of(path: Path) -> dict[str, int]:
    """Return the values of a label map without a given mapping: from the JSON beside it or the manifest."""
    for candidate in (path.parent / f"{stem(path)}.json", path.parent / MANIFEST_FILE):
        if candidate.is_file():
            return _file_values(candidate)
    raise DataError(
        f"nothing says which value of {path.name} is which structure",
        expected=f"{stem(path)}.json or {MANIFEST_FILE} beside it",
        fix="Give --labels mandible=7,… or --labels FILE.json.",
    )


@functools.lru_cache(maxsize=8)
def _file_values(path: Path) -> dict[str, int]:
    try:
        data = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read", received=str(error), expected=_MAPPING) from error
    found: Any = data.get("structures", data.get("labels", data))
    try:
        if isinstance(found, list):
            return _checked({row["prompt"]: row["value"] for row in found}, source=str(path))
        return _checked(found, source=str(path))
    except (TypeError, KeyError) as error:
        raise DataError(
            f"{path} does not say label values", received=f"{error!r}", expected=_MAPPING
        ) from error


def _checked(values: Any, *, source: str) -> dict[str, int]:
    """Refuse anything but names with whole numbers; the background's zero is dropped."""
    whole = isinstance(values, dict) and all(type(value) is int and value >= 0 for value in values.values())
    named = {name: value for name, value in values.items() if value} if whole else {}
    if not named or "" in named:
        raise DataError(f"{source} does not say label values", received=repr(values)[:80], expected=_MAPPING)
    return named


def _read(path: Path, case: Case) -> npt.NDArray[Any]:
    """Read a label map on its image's grid.

    Raises:
        DataError: On another grid, or with values that are not whole numbers.
    """
    grid, image = read_grid(path), read_grid(case.image)
    if not grid.matches(image):
        raise DataError(
            f"the label map {path.name} is on another grid than its image",
            received=f"shape {grid.shape}, spacing {grid.spacing}",
            expected=f"shape {image.shape}, spacing {image.spacing} and the same affine",
            fix="Resample it to the image.",
        )
    labels = read_array(path)
    if labels.dtype.kind == "f":
        if not (labels == np.rint(labels)).all():
            raise DataError(
                f"{path.name} is not a label map",
                received="values between whole numbers",
                expected="whole label values",
            )
        labels = labels.astype(np.int32)
    return labels
