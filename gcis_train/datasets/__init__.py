"""Adapt public CT datasets: one module per dataset, from the published folder to samples.

A new dataset needs one module with a `DATASET` and one line in the table below.
"""

from __future__ import annotations

from gcis_train.datasets import (
    amos,
    btcv,
    ctorg,
    flare22,
    hanseg,
    kits,
    lits,
    msd,
    openkbp,
    pancreas,
    segrap,
    totalsegmentator,
    word,
)
from gcis_train.datasets.samples import Dataset

DATASETS: dict[str, Dataset] = {
    module.DATASET.kind: module.DATASET
    for module in (
        hanseg,
        pancreas,
        msd,
        segrap,
        btcv,
        lits,
        kits,
        word,
        ctorg,
        amos,
        totalsegmentator,
        openkbp,
        flare22,
    )
}
"""All adaptors by kind."""


def find_kind(name: str) -> str | None:
    """Return the kind for a name, ignoring case, spaces, dashes and underscores; None for unknown names."""

    def plain(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "").replace(" ", "")

    return next((k for k, d in DATASETS.items() if plain(name) in (plain(k), plain(d.title))), None)
