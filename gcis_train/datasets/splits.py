"""Split patients into training and validation, depending on the seed and their names only.

Patients are sorted by a hash of (seed, name), so that splits are the same on every machine and file system,
and an added patient moves few others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def shuffled(patients: Iterable[str], seed: int) -> list[str]:
    """Return the distinct patients in the order given by the seed."""
    return sorted(set(patients), key=lambda p: (hashlib.sha256(f"{seed}/{p}".encode()).digest(), p))


def hold_out(patients: Iterable[str], *, share: float, seed: int) -> frozenset[str]:
    """Return a share of the patients, rounded, but at least one of several unless the share is 0."""
    order = shuffled(patients, seed)
    count = round(share * len(order))
    if share > 0 and not count and len(order) > 1:
        count = 1
    return frozenset(order[:count])


def fold_of(patients: Iterable[str], *, folds: int, fold: int, seed: int) -> frozenset[str]:
    """Return the patients of one of `folds` parts of nearly equal size; `fold` counts from 0."""
    return frozenset(shuffled(patients, seed)[fold::folds])
