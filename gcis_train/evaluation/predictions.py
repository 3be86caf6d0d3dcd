"""Read predictions from label maps on disk, written by `gcis-run` or any other program.

The label map of `ct7.nii.gz` is `ct7_seg.nii.gz` (the output of `gcis-run`) or `ct7.nii.gz` in the folder.
The label value of each structure is read from the JSON file next to it or from `manifest.json` in the folder,
unless it is given.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from gcis_runtime.bundles.manifest import MANIFEST_FILE
from gcis_runtime.errors import DataError
from gcis_runtime.images.files import read_grid
from gcis_runtime.images.labels import MAX_LABEL, read_labels
from gcis_runtime.images.suffixes import READABLE, stem
from gcis_runtime.system.json_files import decode_json
from gcis_train.data.datalist import Case
from gcis_train.evaluation.evaluate import Prediction, Source

_MAPPING = '{"mandible": 7, …}, or the JSON of gcis-run, a bundle\'s manifest or an nnU-Net dataset.json'


def folder_source(
    folder: Path, cases: Sequence[Case], *, labels: str | None = None, allow_missing: bool = False
) -> Source:
    """Return the source of predictions for a folder of label maps.

    Args:
        folder: The folder.
        cases: The cases to predict, so that missing label maps are found before any case is scored.
        labels: `mandible=7,spinal cord=2`, or a JSON file; None reads the JSON next to each label map.
        allow_missing: Skip cases without a label map instead of raising an error.

    Raises:
        DataError: The folder or a label map is missing, or `labels` cannot be read.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder",
            received="a file" if folder.exists() else "a path that does not exist",
            expected="the folder of the label maps",
        )
    missing = [case.image_name for case in cases if find(folder, case) is None]
    if missing and not allow_missing:
        raise DataError(
            f"{folder} has no label map for {len(missing)} of {len(cases)} cases, the first {missing[0]}",
            expected=" or ".join(f"{missing[0]}{end}" for end in ("_seg.nii.gz", ".nii.gz")),
            fix="Segment them with gcis-run IMAGE -o FOLDER, or skip such cases with --allow-missing.",
        )
    given = None if labels is None else read_values(labels)
    notes: dict[str, Any] = {"pipeline": "label maps on disk", "predictions": folder.resolve().name}

    def predict(case: Case) -> Prediction | None:
        path = find(folder, case)
        if path is None:
            return None
        values = _values_of(path) if given is None else given
        return Prediction(labels=read_labels(path, like=read_grid(case.image)).array, values=values)

    return Source(predict=predict, prompts=None if given is None else given.keys(), notes=notes)


def find(folder: Path, case: Case) -> Path | None:
    """Return the label map of a case, or None."""
    image = case.image.resolve()
    for end in ("_seg", ""):
        for suffix in (*READABLE, *(suffix.upper() for suffix in READABLE)):
            path = folder / f"{case.image_name}{end}{suffix}"
            if path.is_file() and path.resolve() != image:  # results may be in the folder of the images
                return path
    return None


def read_values(text: str) -> dict[str, int]:
    """Read the label value of each structure.

    Args:
        text: `mandible=7,spinal cord=2`, or the path of a JSON file.

    Raises:
        DataError: The text or the file cannot be read.
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
    """Return the label values of a label map, from the JSON next to it or the manifest in its folder."""
    for candidate in (path.parent / f"{stem(path)}.json", path.parent / MANIFEST_FILE):
        if candidate.is_file():
            return _file_values(candidate)
    raise DataError(
        f"the label values of {path.name} are unknown",
        received="no JSON file",
        expected=f"{stem(path)}.json or {MANIFEST_FILE} next to it",
        fix="Pass --labels mandible=7,… or --labels FILE.json.",
    )


@functools.lru_cache(maxsize=8)
def _file_values(path: Path) -> dict[str, int]:
    try:
        data = decode_json(path.read_bytes(), dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read", received=str(error), expected=_MAPPING) from error
    found: Any = data.get("structures", data.get("labels", data))
    try:
        if isinstance(found, list):
            return _checked({row["prompt"]: row["value"] for row in found}, source=str(path))
        return _checked(found, source=str(path))
    except (TypeError, KeyError) as error:
        raise DataError(f"{path} has no label values", received=f"{error!r}", expected=_MAPPING) from error


def _checked(values: Any, *, source: str) -> dict[str, int]:
    """Return the label values without the background; raise an error unless all can occur in label maps."""
    whole = isinstance(values, dict) and all(
        type(value) is int and 0 <= value <= MAX_LABEL for value in values.values()
    )
    named = {name: value for name, value in values.items() if value} if whole else {}
    if not named or "" in named:
        raise DataError(f"{source} has no label values", received=repr(values)[:80], expected=_MAPPING)
    return named
