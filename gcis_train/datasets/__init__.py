"""The public CT datasets: one adaptor a file, from the folder that a dataset publishes to its samples.

A new dataset is one file with a `DATASET` and one line in the table below.
"""

from __future__ import annotations

from gcis_train.datasets import (
    amos,
    btcv,
    ctorg,
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
    )
}
"""Every adaptor by its kind."""


def find_kind(name: str) -> str | None:
    """Return the kind that a name means, whatever its capitals, dashes and underscores; None if none."""

    def plain(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "").replace(" ", "")

    return next((k for k, d in DATASETS.items() if plain(name) in (plain(k), plain(d.title))), None)
