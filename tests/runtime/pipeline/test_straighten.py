"""Test segmentation of oblique volumes along the patient's axes, with every option that it meets."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from msgspec import UNSET
from scipy.spatial.transform import Rotation

from gcis_runtime import Volume
from gcis_runtime.errors import OutputError
from gcis_runtime.grids.box import box_shape
from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.grids.samplers import BlockSampler
from gcis_runtime.pipeline import segmenter
from gcis_runtime.pipeline.footprint import RequestedOutputs, host_footprint, touched_blocks
from gcis_runtime.pipeline.options import SegmentOptions
from gcis_runtime.pipeline.run_pass import run_pass
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.resume import run_key
from gcis_runtime.sliding.plan import plan_windows
from gcis_runtime.sliding.schedule import make_schedule
from gcis_runtime.spec import Foreground
from tests.support.fake_session import threshold_segmenter

TURN = Rotation.from_euler("xyz", [25, -12, 18], degrees=True).as_matrix()
CENTRE = np.array([10.0, -20.0, 30.0])


def ball(shape=(60, 52, 40), *, turn=TURN, spacing=(2.0, 2.0, 3.0), radius=30.0):
    """Return a volume with a ball of 500 HU in air, and where it is."""
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    distance = np.linalg.norm(index @ affine[:3, :3].T + affine[:3, 3] - CENTRE, axis=-1)
    inside = distance < radius
    return Volume(array=np.where(inside, 500, -1000).astype(np.int16), affine=affine), inside


def dice(one, two):
    return 2 * np.count_nonzero(one & two) / (np.count_nonzero(one) + np.count_nonzero(two))


@pytest.mark.parametrize("restore", ["smooth", "nearest"])
def test_labels_masks_and_probabilities_are_on_the_grid_of_the_file(restore):
    volume, inside = ball()
    ours = threshold_segmenter(orientation="RAS", spacing=(3.0, 3.0, 3.0))
    plain = ours.segment(volume, restore=restore)
    found = ours.segment(volume, restore=restore, straighten=True, masks=True, probabilities=True)
    assert plain.straightened is None and plain.report().straightened is UNSET
    assert found.straightened == pytest.approx(33.4, abs=0.1)
    assert found.report().straightened == found.straightened
    assert any("degrees off" in w and "--straighten" in w for w in plain.warnings)
    assert not any("degrees off" in w for w in found.warnings)
    assert found.labels.shape == volume.shape
    assert dice(found.labels == 1, inside) > 0.93
    np.testing.assert_array_equal(found.masks[1] > 0, found.labels == 1)
    near = found.probabilities[1] >= 128
    assert np.mean(near == (found.labels == 1)) > 0.999


def test_a_straight_volume_has_equal_labels():
    volume, _ = ball(turn=np.eye(3))
    ours = threshold_segmenter(orientation="RAS", spacing=(3.0, 3.0, 3.0))
    one, other = ours.segment(volume), ours.segment(volume, straighten=True)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert other.straightened is None


def test_spacing_and_orientation_of_the_file_are_kept_if_the_bundle_has_none():
    volume, inside = ball()
    found = threshold_segmenter(orientation=None, spacing=None).segment(volume, straighten=True)
    assert dice(found.labels == 1, inside) > 0.95 and found.straightened is not None


def test_published_labels_cannot_be_straightened():
    with pytest.raises(OutputError, match="cannot be combined with straighten"):
        SegmentOptions(restore="published", straighten=True)


def test_a_region_has_the_labels_of_the_whole():
    volume, _ = ball()
    ours = threshold_segmenter(orientation="RAS", spacing=(1.2, 1.2, 1.2))
    whole = ours.segment(volume, straighten=True)
    part = ours.segment(volume, straighten=True, roi="0:25,10:40,:20")
    kept = np.zeros(volume.shape, dtype=bool)
    kept[0:25, 10:40, :20] = True
    np.testing.assert_array_equal(part.labels, np.where(kept, whole.labels, 0))
    assert part.windows < whole.windows and part.windows_skipped and part.labels.any()


def test_a_coarse_pass_is_straightened_too(monkeypatch):
    volume, inside = ball()
    ours = threshold_segmenter(orientation="RAS", spacing=(2.0, 2.0, 2.0))
    passes = []

    def spy(*arguments, **keywords):
        passes.append(run_pass(*arguments, **keywords))
        return passes[-1]

    monkeypatch.setattr(segmenter, "run_pass", spy)
    found = ours.segment(volume, straighten=True, coarse=2.0)
    assert [p.straightened for p in passes] == [found.straightened] * 2 and found.straightened
    assert dice(found.labels == 1, inside) > 0.93


def test_a_body_crop_combines():
    volume, inside = ball()
    ours = threshold_segmenter(orientation="RAS", spacing=(2.0, 2.0, 2.0))
    found = ours.segment(volume, straighten=True, body_crop=True)
    assert dice(found.labels == 1, inside) > 0.93 and found.region["within"] == "the body"


def test_what_lies_beyond_the_image_is_no_foreground():
    """The border of the image, which is above the window's lower end at -4000 HU, is not repeated."""
    volume, _ = ball()
    array = np.full_like(volume.array, -4000)
    array[:, 20:30, 15:25] = 100
    volume = replace(volume, array=array)
    rule = Foreground(margin=2)
    ours = threshold_segmenter(orientation="RAS", spacing=(2.0, 2.0, 2.0), foreground=rule)
    found = ours.segment(volume, straighten=True)
    size = [stop - start for start, stop in found.crop["box"]]
    extent = np.abs(TURN) @ np.array([60 * 2.0, 10 * 2.0, 10 * 3.0])
    assert (np.array(size) <= extent / 2 + 2 * rule.margin + 3).all()
    assert (array[found.labels == 1] == 100).all() and (found.labels == 1).sum() > 0.5 * (array == 100).sum()


def test_the_key_of_a_run_includes_it(ct):
    ours = threshold_segmenter().identity
    plain, straight = (RunOptions(segment=SegmentOptions(straighten=s)) for s in (False, True))
    keys = run_key(ours, ct, plain), run_key(ours, ct, straight)
    assert keys[0].straighten is UNSET and keys[1].straighten is True


@pytest.mark.parametrize("restore", ["smooth", "nearest"])
@pytest.mark.parametrize("straighten", [False, True])
def test_memory_stays_below_its_forecast(restore, straighten):
    """Also for a file grid that is finer than the network's, whose blocks reach beyond a tile."""
    volume, _ = ball((200, 180, 120), spacing=(1.0, 1.0, 1.5), radius=70)
    ours = threshold_segmenter(orientation="RAS", spacing=(3.0, 3.0, 3.0))
    ours.segment(ball((8, 8, 8))[0], straighten=straighten)
    manifest = ours.bundle.manifest
    image = preprocess(volume, manifest.preprocess, straighten=straighten)
    plan = plan_windows(image.transform.shape, manifest.window)
    wanted = RequestedOutputs(values=(1, 2), smooth=restore == "smooth")
    footprint = host_footprint(plan, image.transform, volume.shape, wanted, graph_channels=2)
    tracemalloc.start()
    ours.segment(volume, straighten=straighten, restore=restore)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < footprint.total


def test_the_forecast_counts_every_block_that_a_tile_touches():
    """Also the parts of blocks beyond the tile, which a share of the volume would not count."""
    volume, _ = ball((200, 180, 120), spacing=(1.0, 1.0, 1.5))
    manifest = threshold_segmenter(orientation="RAS", spacing=(3.0, 3.0, 3.0)).bundle.manifest
    transform = preprocess(volume, manifest.preprocess, straighten=True).transform
    schedule = make_schedule(plan_windows(transform.shape, manifest.window))
    wanted = RequestedOutputs(values=(1, 2), smooth=True)
    voxels, coordinates = touched_blocks(schedule, transform, volume.shape, wanted)
    sampler, tile = BlockSampler(transform.to_file, smooth=True), schedule.tile_shape
    most = held = 0
    for start in itertools.product(*(range(0, n, t) for n, t in zip(transform.shape, tile, strict=True))):
        places = sampler.places(start, tile)
        most = max(most, sum(int(np.prod(box_shape(place.box))) for place in places))
        held = max(held, sum(place._coordinates[0].size for place in places))
    share = np.prod([min(1, (t + 1) / n) for t, n in zip(tile, transform.shape, strict=True)])
    assert share * volume.array.size < most <= voxels <= volume.array.size
    assert 24 * held < coordinates
