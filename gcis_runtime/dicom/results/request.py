"""Define what every DICOM result needs: the series, its labels, the structures, and where they come from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from gcis_runtime.dicom.headers import number_of
from gcis_runtime.dicom.load import SeriesImage, slice_labels
from gcis_runtime.errors import OutputError

_UUID_ROOT = "2.25"
_MAX_ROOT = 24
MANUFACTURER, MODEL = "gCIS", "gcis-run"
NOTICE = "Research software, not a medical device"


@dataclass(frozen=True, kw_only=True)
class DicomStructure:
    """A structure of a label map.

    Attributes:
        value: Label value.
        name: Name.
        color: Red, green and blue, 0 to 255.
        codes: Codes of terminologies from the bundle.
        measurements: Mean HU (`mean_hu`), and extent (`x_mm`) and bounds (`x_min_mm`, `x_max_mm`) of the box
            along each axis in patient coordinates of DICOM (LPS), mm; empty without statistics.
        volume_ml: Volume in mL.
    """

    value: int
    name: str
    color: tuple[int, int, int]
    codes: dict[str, str] = field(default_factory=dict)
    measurements: dict[str, float] = field(default_factory=dict)
    volume_ml: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultRequest:
    """Everything that a DICOM result is made of.

    Attributes:
        image: The series.
        labels: Label values (columns, rows, slices) on the grid of the volume.
        structures: Structures with voxels; empty ones are left out.
        algorithm: Name of the bundle.
        version: Version of gCIS.
        bundle_sha256: Hash of the bundle.
        settings: Text of all settings that the labels depend on; equal settings give equal UIDs.
        uid_root: Root of new UIDs; None derives UUID-based ones (2.25).
    """

    image: SeriesImage
    labels: NDArray[Any]
    structures: Sequence[DicomStructure]
    algorithm: str
    version: str
    bundle_sha256: str
    settings: str
    uid_root: str | None = None

    @cached_property
    def slice_labels(self) -> NDArray[Any]:
        """Label values of the original slices, (slices, rows, columns)."""
        return slice_labels(self.labels, self.image.stack).transpose(2, 1, 0)

    @property
    def headers(self) -> list[Any]:
        """Headers of the slices in the order of `slice_labels`; a multi-frame file once."""
        return list({id(frame.header): frame.header for frame in self.image.stack.frames}.values())

    def uid(self, kind: str) -> str:
        """Return the UID of an object of this result; the same request gives the same UID.

        Args:
            kind: Kind of the object, such as `"seg series"`.
        """
        parts = (kind, self.bundle_sha256, self.image.series.uid, self.settings)
        digest = hashlib.sha256("\n".join(parts).encode()).digest()
        return f"{check_uid_root(self.uid_root)}.{int.from_bytes(digest[:16], 'big')}"

    def series_number(self, offset: int) -> int:
        """Return the number of a new series: that of the source times 100, plus `offset`."""
        number = number_of({"n": self.image.series.number}, "n") or 0
        return int(number) * 100 + offset if 0 <= number < 1e6 else offset


def check_uid_root(root: str | None) -> str:
    """Return a root of UIDs without a final dot; None is the root of UUID-based UIDs.

    Raises:
        OutputError: It is not a root that leaves room for 39 digits.
    """
    if root is None:
        return _UUID_ROOT
    clean = root.strip().rstrip(".")
    if len(clean) > _MAX_ROOT or not re.fullmatch(r"[0-2](\.(0|[1-9]\d*))+", clean):
        raise OutputError(
            "the UID root is invalid",
            received=repr(root),
            expected=f"numbers separated by dots, at most {_MAX_ROOT} characters, such as 1.2.826.0.1",
        )
    return clean


def short_text(text: str, length: int) -> str:
    """Return a text of at most `length` characters without backslashes and control characters."""
    clean = "".join(" " if c == "\\" or not c.isprintable() else c for c in text)
    return " ".join(clean.split())[:length]
