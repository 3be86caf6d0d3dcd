"""Describe where structures lie in every patient: their largest spread, and their order along the body.

The limits are from the contours of 164 head-and-neck patients (decision 53). Names are those of
`structures.match.concept_of`; a structure without an entry has no limit.
"""

from __future__ import annotations

from typing import Literal

Direction = Literal["left of", "in front of", "above"]

MOST_SPREAD_MM = {"brainstem": 35.0, "gland parotid": 36.0, "larynx": 38.0, "mandible": 80.0}
"""Root mean square distance of voxels from their centre, in mm: 1.5 times the largest of the contours."""

_HEAD = ("brainstem", "gland parotid", "mandible")

ORDER: tuple[tuple[str, Direction, str], ...] = (
    *((name, "above", "larynx") for name in _HEAD),
    *((name, "above", "esophagus") for name in (*_HEAD, "larynx")),
    ("mandible", "in front of", "brainstem"),
    ("mandible", "in front of", "cord spinal"),
    ("larynx", "in front of", "cord spinal"),
)
"""Pairs whose centres had this order in all contours, by at least 33 mm."""
