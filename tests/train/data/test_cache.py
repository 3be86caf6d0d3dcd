"""Test that the cache changes no result, whether it is new, shared, damaged, stale or full."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import nibabel as nib
import numpy as np
import pytest
import torch

from gcis_runtime.errors import DataError, OutputError
from gcis_runtime.spec import PreprocessSpec
from gcis_train.data import cache as caching
from gcis_train.data.cache import VolumeCache
from gcis_train.data.datalist import Case, Target, group_cases, read_datalist
from gcis_train.data.volumes import CaseVolume, load_case
from gcis_train.options.settings import resolve_options
from gcis_train.training import run as runs
from gcis_train.training.loop.feed import Feed
from gcis_train.training.material import Cases, Material
from gcis_train.training.pretrain import pretrain
from tests.support.training_values import PROMPTS, Silent, ball_case, options, write_cases, write_nifti

SPEC = PreprocessSpec(orientation="RAS", spacing=(2.5, 2.5, 2.5))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Return a case with two overlapping structures in two files."""
    hu, labels = ball_case()
    image = write_nifti(tmp_path / "ct.nii.gz", hu)
    both = write_nifti(tmp_path / "both.nii.gz", (labels > 0).astype(np.uint8))
    one = write_nifti(tmp_path / "one.nii.gz", labels)
    targets = (
        Target(prompt="balls", labels=(both,), values=None),
        Target(prompt="right ball", labels=(one,), values=(2,)),
    )
    return Case(image=image, targets=targets, title="someone")


class Notes(list[str]):
    """A cache and its messages."""

    def cache(self, folder: Path) -> VolumeCache:
        return VolumeCache(folder, notify=self.append)


@pytest.fixture
def notes() -> Notes:
    return Notes()


def _same(one: CaseVolume, two: CaseVolume) -> None:
    assert (one.name, one.prompts, one.left_right) == (two.name, two.prompts, two.left_right)
    pairs = [(one.image, two.image), (one.labels, two.labels)]
    pairs += [(one.mask(i), two.mask(i)) for i in range(len(one.prompts))]
    assert one.overlaps.keys() == two.overlaps.keys()
    for a, b in pairs:
        assert a.dtype == b.dtype and np.array_equal(a, b)


def _no_reading(*_args: Any, **_kw: Any) -> CaseVolume:
    raise AssertionError("the case was read again")


def test_cached_is_uncached(
    case: Case, tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_case(case, SPEC)
    assert plain.overlaps and plain.mask(0).sum() > plain.mask(1).sum() > 0
    _same(notes.cache(tmp_path / "cache").load(case, SPEC), plain)
    monkeypatch.setattr(caching, "load_case", _no_reading)
    later = notes.cache(tmp_path / "cache")
    found = later.load(case, SPEC)
    _same(found, plain)
    assert not found.image.flags.writeable and notes == []
    entries, size = later.size()
    assert entries == 1 and size > plain.image.nbytes + plain.labels.nbytes
    assert later.summary().endswith(f"1 cases, {size / 1e6:.1f} MB (1 read and 0 created by this run)")


def test_entries_are_plain_arrays(case: Case, tmp_path: Path, notes: Notes) -> None:
    notes.cache(tmp_path / "cache").load(case, SPEC)
    files = [f for f in (tmp_path / "cache").rglob("*") if f.is_file()]
    assert sorted(f.name for f in files) == [
        "entry.json", "image.npy", "labels.npy", "overlap0.npy", "overlap1.npy",
    ]  # fmt: skip
    assert all(not np.load(f, allow_pickle=False).dtype.hasobject for f in files if f.suffix == ".npy")


def _other_spec(case: Case) -> tuple[Case, PreprocessSpec]:
    return case, msgspec.structs.replace(SPEC, intensity_window=(-100.0, 100.0))


def _touched(case: Case) -> tuple[Case, PreprocessSpec]:
    os.utime(case.targets[1].labels[0], ns=(1, 1))
    return case, SPEC


def _other_value(case: Case) -> tuple[Case, PreprocessSpec]:
    targets = (case.targets[0], Target(prompt="right ball", labels=case.targets[1].labels, values=(1,)))
    return Case(image=case.image, targets=targets), SPEC


@pytest.mark.parametrize("change", [_other_spec, _touched, _other_value])
def test_what_decides_the_numbers_makes_another_entry(
    case: Case, tmp_path: Path, notes: Notes, change: Callable[[Case], tuple[Case, PreprocessSpec]]
) -> None:
    cache = notes.cache(tmp_path / "cache")
    cache.load(case, SPEC)
    changed, spec = change(case)
    _same(cache.load(changed, spec), load_case(changed, spec))
    assert cache.size()[0] == 2 and notes == []


def test_other_voxels_beside_a_header_make_another_entry(case: Case, tmp_path: Path, notes: Notes) -> None:
    nib.save(nib.Nifti1Pair.from_image(nib.load(case.image)), tmp_path / "ct.hdr")
    pair = Case(image=tmp_path / "ct.hdr", targets=case.targets)
    cache = notes.cache(tmp_path / "cache")
    cache.load(pair, SPEC)
    os.utime(tmp_path / "ct.img", ns=(1, 1))
    cache.load(pair, SPEC)
    assert cache.size()[0] == 2 and notes == []


def test_names_do_not(case: Case, tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = notes.cache(tmp_path / "cache")
    cache.load(case, SPEC)
    monkeypatch.setattr(caching, "load_case", _no_reading)
    targets = tuple(Target(prompt=f"the {t.prompt}", labels=t.labels, values=t.values) for t in case.targets)
    found = cache.load(Case(image=case.image, targets=targets), SPEC)
    assert found.prompts == ("the balls", "the right ball") and found.name == "ct"


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("image.npy", lambda f: f.write_bytes(f.read_bytes()[:-100])),
        ("labels.npy", _flip),
        ("overlap1.npy", lambda f: f.unlink()),
        ("entry.json", lambda f: f.write_bytes(b"{")),
        ("entry.json", lambda f: f.write_text(json.dumps({**json.loads(f.read_text()), "more": 1}))),
    ],
    ids=["truncated", "flipped bit", "missing", "no index", "other index"],
)
def test_a_damaged_entry_is_made_again_with_a_notice(
    case: Case, tmp_path: Path, notes: Notes, name: str, damage: Callable[[Path], object]
) -> None:
    cache = notes.cache(tmp_path / "cache")
    plain = load_case(case, SPEC)
    cache.load(case, SPEC)
    damage(next((tmp_path / "cache").rglob(name)))
    _same(cache.load(case, SPEC), plain)
    assert len(notes) == 1 and "cached someone" in notes[0] and "damaged" in notes[0]
    cache.load(case, SPEC)
    assert len(notes) == 1 and cache.size()[0] == 1


def test_two_that_make_one_entry_at_once(
    case: Case, tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process writes the entry between the read and the write of this one."""
    plain = load_case(case, SPEC)
    ours, theirs = notes.cache(tmp_path / "cache"), notes.cache(tmp_path / "cache")
    write = caching._write

    def slow(folder: Path, case: Case, volume: CaseVolume) -> None:
        write(folder, case, volume)
        monkeypatch.setattr(caching, "_write", write)
        _same(theirs.load(case, SPEC), plain)

    monkeypatch.setattr(caching, "_write", slow)
    _same(ours.load(case, SPEC), plain)
    assert ours.size()[0] == 1 and notes == []
    assert not [f for f in (tmp_path / "cache").iterdir() if f.name.startswith(".")]


def test_unfinished_entries_of_killed_processes_are_swept(tmp_path: Path, notes: Notes) -> None:
    for name, age in (("old", 2 * 86400), ("fresh", 60)):
        folder = tmp_path / "cache" / f".{name}"
        folder.mkdir(parents=True)
        (folder / "image.npy").touch()
        os.utime(folder, (time.time() - age,) * 2)
    assert notes.cache(tmp_path / "cache").size() == (0, 0)
    assert [f.name for f in (tmp_path / "cache").iterdir()] == [".fresh"]


PROCESS = """
import sys
from pathlib import Path
import numpy as np
from gcis_runtime.spec import PreprocessSpec
from gcis_train.data.cache import VolumeCache
from gcis_train.data.datalist import group_cases, read_datalist

sys.stdin.readline()
path = Path({path!r})
cache = VolumeCache(path.parent / "cache", notify=print)
spec = PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0))
for case in group_cases(read_datalist(path).training, folder=path.parent):
    print(float(np.asarray(cache.load(case, spec).image, dtype=np.float64).sum()))
"""


@pytest.mark.slow
def test_two_real_processes(tmp_path: Path) -> None:
    path = write_cases(tmp_path, 3)
    command = [sys.executable, "-c", PROCESS.format(path=str(path))]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(2)]
    outputs = [child.communicate("go\n")[0] for child in children]
    assert outputs[0] == outputs[1] and len(outputs[0].splitlines()) == 3
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_full_disk_costs_time_only(
    case: Case, tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = notes.cache(tmp_path / "cache")
    monkeypatch.setattr(np, "save", full)
    _same(cache.load(case, SPEC), load_case(case, SPEC))
    assert len(notes) == 1 and "No space left" in notes[0] and "kept in memory" in notes[0]
    assert list((tmp_path / "cache").iterdir()) == []


def test_errors_are_those_of_an_uncached_case(case: Case, tmp_path: Path, notes: Notes) -> None:
    case.image.write_bytes(b"not an image")
    cache = notes.cache(tmp_path / "cache")
    with pytest.raises(DataError, match=r"case someone cannot be .*ct.nii.gz is not a NIfTI file"):
        cache.load(case, SPEC)
    case.image.unlink()
    with pytest.raises(DataError, match=r"case someone cannot be .*ct.nii.gz does not exist"):
        cache.load(case, SPEC)
    assert cache.size() == (0, 0)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        notes.cache(tmp_path / "file")


def test_a_run_draws_the_same_windows_with_a_cache(tmp_path: Path, notes: Notes) -> None:
    rows = read_datalist(write_cases(tmp_path, 2))
    cases = group_cases(rows.training, folder=tmp_path)
    run = options()
    cache = notes.cache(tmp_path / "cache")
    load = caching.case_loader(run.preprocess, cache)
    plain, cached = (list(Feed(cases, PROMPTS, run, load=how).epoch(1)) for how in (None, load))
    for one, two in zip(plain, cached, strict=True):
        assert one.names == two.names and torch.equal(one.images, two.images)
        assert all(torch.equal(a, b) for a, b in zip(one.masks, two.masks, strict=True))
    assert cache.size()[0] == 2


def test_the_option_reaches_training_and_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_datalist(write_cases(tmp_path, 1, validation=1))
    material = Material(
        cases=Cases(
            training=group_cases(rows.training, folder=tmp_path),
            validation=group_cases(rows.validation, folder=tmp_path),
            prompts=PROMPTS,
        ),
        embeddings=torch.randn(2, 512, generator=torch.Generator().manual_seed(0)),
        text_weights="random (seed 0)",
    )

    class Reading:
        """Reads the cases that a trainer reads, without training."""

        def __init__(self, *, feed: Feed, validation: Callable[[], list[CaseVolume]], **_: Any) -> None:
            self.feed, self.validation = feed, validation

        def run(self) -> str:
            assert len(self.feed.batch(0, 0).names) == len([*self.validation()]) == 1
            return "done"

    monkeypatch.setattr(runs, "Trainer", Reading)
    progress = Silent()
    folder = str(tmp_path / "cache")
    run = msgspec.structs.replace(options(), cache=folder)
    where: dict[str, Any] = {"device": torch.device("cpu"), "progress": progress}
    pretrain(material, runs.Run(options=run, run_dir=tmp_path / "run", **where))
    assert any(f"cache {folder}: 2 cases" in line and "2 created" in line for line in progress.lines)
    flags = {"cache": folder, "feature_size": 12, "patch_size": "64", "amp": "none"}
    assert resolve_options(flags, device=torch.device("cpu")).cache == folder
