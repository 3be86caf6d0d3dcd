"""What the cache of pre-processed cases costs and saves, beside MONAI's PersistentDataset."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import PersistentDataset
from monai.transforms import Compose, LoadImaged

from benchmarks.environment import environment
from gcis_runtime.spec import PreprocessSpec
from gcis_train.data.cache import VolumeCache
from gcis_train.data.datalist import group_cases, read_datalist
from gcis_train.data.phantoms import write_phantoms
from gcis_train.data.volumes import load_case, preprocessing

SEED = 7
FILE_SPACING = (1.0, 1.0, 2.0)


def compare(*, spacing: float, repeats: int, folder: Path) -> dict[str, Any]:
    """Measure one phantom's case; the ways take turns.

    Args:
        spacing: Voxel size in mm that cases are resampled to.
        repeats: Turns.
        folder: Where the phantom and the caches go.

    Returns:
        The record, ready for JSON.
    """
    write_phantoms(folder / "data", count=1, seed=SEED, spacing=FILE_SPACING, training_share=1.0)
    datalist = folder / "data" / "datalist.json"
    case = group_cases(read_datalist(datalist).training, folder=datalist.parent)[0]
    spec = PreprocessSpec(orientation="RAS", spacing=(spacing, spacing, spacing))
    ours = VolumeCache(folder / "ours", notify=_fail)
    keys = ["image", "label"]
    rows = [{"image": case.image, "label": case.targets[0].labels[0]}]

    def monai() -> PersistentDataset:
        # PersistentDataset keeps what its leading MONAI transforms give: our reader is not one of them.
        steps = [LoadImaged(keys=keys, image_only=True), *preprocessing(spec, keys=keys).transforms[1:]]
        return PersistentDataset(rows, Compose(steps), cache_dir=folder / "monai")

    def later() -> None:
        ours.load(case, spec).image.max()

    def later_monai() -> None:
        np.asarray(monai()[0]["image"]).max()

    ours.load(case, spec)
    later_monai()
    ways: dict[str, Callable[[], object]] = {
        "no cache": lambda: load_case(case, spec),
        "gcis, first time": lambda: _first(folder / "first", lambda c: c.load(case, spec)),
        "gcis, later": later,
        "PersistentDataset, later": later_monai,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: round(statistics.median(values), 4) for name, values in seconds.items()}
    return {
        "what": "cache",
        "environment": environment(),
        "voxels": [int(n) for n in load_case(case, spec).image.shape],
        "spacing_mm": spacing,
        "repeats": repeats,
        "seconds": medians,
        "times_faster_than_no_cache": {n: round(medians["no cache"] / s, 2) for n, s in medians.items()},
        "bytes": {
            "files": sum(f.stat().st_size for f in datalist.parent.glob("*.nii.gz")),
            "gcis": ours.size()[1],
            "PersistentDataset": sum(f.stat().st_size for f in (folder / "monai").iterdir()),
        },
    }


def _first(folder: Path, load: Callable[[VolumeCache], object]) -> None:
    """Make an entry in an empty cache."""
    shutil.rmtree(folder, ignore_errors=True)
    load(VolumeCache(folder, notify=_fail))


def _fail(line: str) -> None:
    raise RuntimeError(line)
