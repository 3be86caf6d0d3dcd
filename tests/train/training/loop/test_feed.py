"""Test the order of windows: determined by the seed, each once per epoch; errors reach the consumer."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest
import torch

from gcis_runtime.errors import DataError
from gcis_runtime.spec import PreprocessSpec
from gcis_train.data.datalist import Case, group_cases, read_datalist
from gcis_train.data.volumes import CaseVolume, load_case
from gcis_train.options.training import AugmentSpec, TrainOptions
from gcis_train.training.loop.feed import PHANTOM_SEEDS, Feed
from gcis_train.training.objectives import Batch
from tests.support.training_values import PROMPTS, options, write_cases


def _feed(folder: Path, count: int, run: TrainOptions) -> Feed:
    rows = read_datalist(write_cases(folder, count))
    return Feed(group_cases(rows.training, folder=folder), PROMPTS, run)


def test_any_step_can_be_drawn_again(tmp_path: Path) -> None:
    augment = AugmentSpec(flip=(0.5, 0.5, 0.5), affine=0.5)
    run = options(augment=augment, windows_per_case=2, batch_size=2)
    feed = _feed(tmp_path, 3, run)
    assert feed.steps == 3
    batches = list(feed.epoch(1))
    later = list(_feed(tmp_path, 3, run).epoch(1, start=1))
    assert len(batches) == 3 and len(later) == 2
    for one, two in zip(batches[1:], later, strict=True):
        assert one.names == two.names and one.prompts == two.prompts
        assert torch.equal(one.images, two.images)
        assert all(torch.equal(a, b) for a, b in zip(one.masks, two.masks, strict=True))
    names = sorted(n for b in batches for n in b.names)
    assert names == ["ct0", "ct0", "ct1", "ct1", "ct2", "ct2"]
    other = list(feed.epoch(2))
    assert any(not torch.equal(a.images, b.images) for a, b in zip(batches, other, strict=True))


def test_shapes_and_the_last_smaller_batch(tmp_path: Path) -> None:
    feed = _feed(tmp_path, 3, options(batch_size=2))
    batches = list(feed.epoch(0))
    assert [len(b.names) for b in batches] == [2, 1]
    assert batches[0].images.shape == (2, 1, 64, 64, 64) and batches[0].images.dtype == torch.float32
    assert batches[0].masks[0].shape == (2, 64, 64, 64) and batches[0].prompts[0] == PROMPTS


def test_new_phantoms_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def phantom(seed: int, spec: PreprocessSpec) -> object:
        seen.append(seed)
        return feed._volume(0, 0)

    monkeypatch.setattr("gcis_train.training.loop.feed.load_phantom", phantom)
    feed = _feed(tmp_path, 1, options(phantoms=2))
    for epoch in (0, 1):
        assert len(list(feed.epoch(epoch))) == 3
    assert sorted(seen) == [PHANTOM_SEEDS + i for i in range(4)]


def test_a_bad_case_is_named_by_the_consumer(tmp_path: Path) -> None:
    feed = _feed(tmp_path, 2, options())
    (tmp_path / "seg1.nii.gz").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"case ct1"):
        list(feed.epoch(0))


def test_leaving_early_ends_the_thread(tmp_path: Path) -> None:
    feed = _feed(tmp_path, 4, options(windows_per_case=4))
    batches = feed.epoch(0)
    next(batches)
    closing = threading.Thread(target=batches.close, daemon=True)  # type: ignore[attr-defined]
    closing.start()
    closing.join(timeout=30)
    assert not closing.is_alive()
    assert not any(t.name.startswith("gcis-feed") for t in threading.enumerate())


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_batches_do_not_depend_on_the_number_of_workers(tmp_path: Path, workers: int) -> None:
    augment = AugmentSpec(flip=(0.5, 0.5, 0.5), affine=0.5, intensity_scale=0.5)
    run = options(augment=augment, windows_per_case=3, batch_size=2, phantoms=1, workers=1)
    one = list(_feed(tmp_path, 2, run).stream(0, start=1, end=2))
    many = list(_feed(tmp_path, 2, msgspec.structs.replace(run, workers=workers)).stream(0, start=1, end=2))
    assert len(one) == len(many) == 4 + 5
    for a, b in zip(one, many, strict=True):
        assert (a.names, a.prompts, a.seeds) == (b.names, b.prompts, b.seeds)
        assert torch.equal(a.images, b.images)
        assert all(torch.equal(x, y) for x, y in zip(a.masks, b.masks, strict=True))


def test_a_phantom_is_made_once_per_epoch_and_then_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def phantom(seed: int, spec: PreprocessSpec) -> object:
        seen.append(seed)
        return feed._volume(0, 0)

    monkeypatch.setattr("gcis_train.training.loop.feed.load_phantom", phantom)
    feed = _feed(tmp_path, 1, options(phantoms=2, windows_per_case=4, workers=3))
    assert len(list(feed.stream(0, end=3))) == 3 * 12
    assert sorted(seen) == [PHANTOM_SEEDS + i for i in range(6)]
    assert not feed._phantoms._made._values


def test_a_case_is_loaded_once_by_all_workers(tmp_path: Path) -> None:
    rows = read_datalist(write_cases(tmp_path, 3))
    names: list[str] = []

    def load(case: Case) -> CaseVolume:
        names.append(case.name)
        return load_case(case, options().preprocess)

    run = options(windows_per_case=4, batch_size=2, workers=4)
    feed = Feed(group_cases(rows.training, folder=tmp_path), PROMPTS, run, load=load)
    feed.load()
    list(feed.epoch(0))
    assert sorted(names) == ["ct0", "ct1", "ct2"]


@pytest.mark.parametrize("stage", ["load", "stream"])
def test_workers_load_and_draw_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    rows = read_datalist(write_cases(tmp_path, 2))
    both = threading.Barrier(2, timeout=30)  # one worker alone never passes

    def load(case: Case) -> CaseVolume:
        if stage == "load":
            both.wait()
        return load_case(case, options().preprocess)

    feed = Feed(group_cases(rows.training, folder=tmp_path), PROMPTS, options(workers=2), load=load)
    feed.load()
    if stage == "stream":
        draw = feed.batch

        def together(epoch: int, step: int) -> Batch:
            both.wait()
            return draw(epoch, step)

        monkeypatch.setattr(feed, "batch", together)
    assert len(list(feed.stream(0, end=1))) == 2
