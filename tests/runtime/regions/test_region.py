"""Test regions: labels inside equal those of the whole volume bit for bit; outside is background."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label as connected
from scipy.spatial.transform import Rotation

from gcis_runtime import Segmenter, Volume
from gcis_runtime.cli import run as cli
from gcis_runtime.errors import ImageError, OutputError, PromptError
from gcis_runtime.images.nifti import write_volume
from gcis_runtime.pipeline import run_pass as passes
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.pipeline.options import SegmentOptions
from gcis_runtime.regions import region as region_module
from gcis_runtime.regions.body import body_region, largest_part
from gcis_runtime.regions.region import Region
from gcis_runtime.regions.roi import MASK_MARGIN, BoxRoi, MaskRoi, StructureRoi, parse_roi
from gcis_runtime.sliding.plan import window_weights
from tests.support.bundles_and_images import smooth_ct
from tests.support.fake_session import ThresholdSession, threshold_bundle


class WindowSession(ThresholdSession):
    """Session whose output depends on the whole window, so that a missing window changes labels."""

    def run(self, window):
        shift = np.float32((float(window.mean()) * 7919.0 % 1.0) * 400.0 - 200.0)
        return super().run(window) + shift


def segmenter(**preprocess):
    return Segmenter(LoadedEngine(threshold_bundle(**preprocess), WindowSession()))


def affine_of(order, flips, angle, spacing):
    """Return an affine with permuted, flipped and rotated axes."""
    turned = Rotation.from_euler("xyz", [angle, -angle, angle], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turned[:, list(order)] * np.where(flips, -1, 1) * np.array(spacing)
    affine[:3, 3] = (30, -20, 10)
    return affine


def inside(boxes, shape):
    kept = np.zeros(shape, bool)
    for box in boxes:
        kept[box] = True
    return kept


@st.composite
def volumes(draw):
    shape = draw(st.tuples(*(st.integers(1, 110) for _ in range(3))))
    affine = affine_of(
        draw(st.permutations(range(3))),
        draw(st.tuples(*(st.booleans() for _ in range(3)))),
        draw(st.sampled_from([0.0, 0.0, 11.0])),
        draw(st.tuples(*(st.sampled_from([0.9, 1.5, 2.2]) for _ in range(3)))),
    )
    return Volume(array=smooth_ct(shape, seed=draw(st.integers(0, 5))), affine=affine)


def boxes_in(shape):
    def box(*ends):
        return tuple(slice(min(a, b), max(a, b) + 1) for a, b in ends)

    index = [st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)) for n in shape]
    return st.lists(st.builds(box, *index), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    volume=volumes(),
    restore=st.sampled_from(["smooth", "nearest"]),
    spacing=st.sampled_from([None, (1.5, 1.5, 1.5), (1.1, 1.9, 1.3)]),
    orientation=st.sampled_from([None, "RAS", "PIL"]),
)
def test_inside_labels_are_those_of_the_whole_run_and_outside_is_background(
    data, volume, restore, spacing, orientation
):
    boxes = tuple(data.draw(boxes_in(volume.shape)))
    ours = segmenter(spacing=spacing, orientation=orientation)
    request = SegmentOptions(restore=restore, masks=True, probabilities=True)
    weights = window_weights(ours.bundle.manifest.window)

    def run(region):
        return passes.run_pass(
            ours._engine, volume, request, channels=ours.channels, weights=weights, region=region
        )

    whole, part = run(None), run(Region(boxes=boxes, origin="test"))
    kept = inside(boxes, volume.shape)
    np.testing.assert_array_equal(part.sink.labels, np.where(kept, whole.sink.labels, 0))
    for of_whole, of_part in (
        (whole.sink.masks(), part.sink.masks()),
        (whole.sink.probabilities(), part.sink.probabilities()),
    ):
        for value in (1, 2):
            np.testing.assert_array_equal(of_part[value], np.where(kept, of_whole[value], 0))
    assert part.sink.counts() == {v: np.count_nonzero(part.sink.labels == v) for v in (1, 2)}
    assert part.count.total + part.skipped == whole.count.total


LONG = Volume(array=smooth_ct((60, 60, 300), seed=2), affine=np.diag([-2.0, -2.0, 2.0, 1.0]))


def test_only_windows_that_touch_are_run_and_each_of_them_matters(monkeypatch):
    """Labels change if a contributing window is missing: the test detects it."""
    ours = segmenter()
    whole = ours.segment(LONG)
    part = ours.segment(LONG, roi=":,:,150:170")
    assert (part.windows, part.windows_skipped) == (2, whole.windows - 2)
    np.testing.assert_array_equal(part.labels[:, :, 150:170], whole.labels[:, :, 150:170])
    real = region_module.windows_touching

    def fewer(*arguments):
        plan = real(*arguments)
        return replace(plan, starts=plan.starts[1:])

    monkeypatch.setattr(passes, "windows_touching", fewer)
    wrong = ours.segment(LONG, roi=":,:,150:170")
    assert np.any(wrong.labels[:, :, 150:170] != whole.labels[:, :, 150:170])


def test_a_region_of_nothing_runs_no_window():
    ours = segmenter()
    found = passes.run_pass(
        ours._engine, LONG, SegmentOptions(), channels=ours.channels,
        weights=window_weights(ours.bundle.manifest.window), region=Region(boxes=(), origin="nothing"),
    )  # fmt: skip
    assert found.count.total == 0 and not found.sink.labels.any()


# What is asked for


MANIFEST = threshold_bundle().manifest
VOLUME = Volume(
    array=smooth_ct((50, 40, 30)), affine=affine_of((1, 0, 2), (True, False, True), 17, (1, 2, 3))
)


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("10:20,0:40,3:4", ((10, 20), (0, 40), (3, 4))),
        (" 10: , :5 , : ", ((10, 50), (0, 5), (0, 30))),
        ("0:9999,39:41,:", ((0, 50), (39, 40), (0, 30))),
    ],
)
def test_ranges_are_voxels_of_the_file(text, ranges):
    (box,) = parse_roi(text, MANIFEST).region(VOLUME).boxes
    assert box == tuple(slice(*r) for r in ranges)


@pytest.mark.parametrize(
    "text", ["1:2,3:4", "1:2,3:4,5:6,7:8", "5:3,:,:", "1,2,3", "1:2:3,:,:", ":", "3:3,:,:"]
)
def test_what_is_no_box_is_refused(text):
    with pytest.raises(ImageError, match=r"region of interest is not a box.*x0:x1"):
        parse_roi(text, MANIFEST)


def test_a_box_beside_the_image_is_refused():
    with pytest.raises(ImageError, match=r"no voxel of the image.*50:60,:,:.*0:50,0:40,0:30"):
        parse_roi("50:60,:,:", MANIFEST).region(VOLUME)


def test_names_are_structures_or_files_or_an_error(tmp_path):
    assert parse_roi("Bone", MANIFEST) == StructureRoi(channel=0)
    assert parse_roi("liver ", MANIFEST) == StructureRoi(channel=1)
    assert isinstance(parse_roi("mask.nii.gz", MANIFEST), MaskRoi)
    with pytest.raises(PromptError, match=r"neither a structure of the bundle nor a file.*bone, liver"):
        parse_roi("spleen", MANIFEST)


@settings(max_examples=30, deadline=None)
@given(
    order=st.permutations(range(3)), flips=st.tuples(*(st.booleans() for _ in range(3))),
    angle=st.sampled_from([0.0, 25.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_mask_on_any_grid_lies_whole_inside_its_box(tmp_path_factory, order, flips, angle, seed):
    """The box without the margin holds the corners of the mask's voxels, and is as small as possible."""
    rng = np.random.default_rng(seed)
    array = np.zeros((12, 9, 7), np.int16)
    array[tuple(rng.integers(0, n, 3) for n in array.shape)] = 5
    placed = affine_of(order, flips, angle, (2.0, 1.5, 4.0))
    centre = (VOLUME.affine @ [25, 20, 15, 1])[:3]
    placed[:3, 3] = centre - placed[:3, :3] @ (np.array(array.shape) / 2)
    path = tmp_path_factory.getbasetemp() / "roi_mask.nii"
    write_volume(path, Volume(array=array, affine=placed))
    corners = np.argwhere(array)[:, None] + np.array(list(np.ndindex(2, 2, 2))) - 0.5
    homogeneous = np.append(corners.reshape(-1, 3), np.ones((corners.size // 3, 1)), axis=1)
    where = (np.linalg.solve(VOLUME.affine, placed) @ homogeneous.T)[:3]
    (box,) = MaskRoi(path=path).region(VOLUME).boxes
    for axis, part in enumerate(box):
        margin = int(np.ceil(MASK_MARGIN / VOLUME.spacing[axis]))
        low, high, n = where[axis].min() + 0.5, where[axis].max() + 0.5, VOLUME.shape[axis]
        noise = 1e-3  # of the affine in the mask's header; it decides where a corner lies on a voxel's edge
        starts = {max(0, int(np.floor(low + e)) - margin) for e in (-noise, noise)}
        stops = {min(n, int(np.ceil(high + e)) + margin) for e in (-noise, noise)}
        assert part.start in starts and part.stop in stops


def test_masks_are_read_as_label_maps(tmp_path):
    """Floats, scale factors, a fourth axis and an upper-case suffix do not change the box."""
    array = np.zeros((12, 9, 7), np.uint8)
    array[3:6, 2:5, 4] = 255
    nib.save(nib.Nifti1Image(array, VOLUME.affine), tmp_path / "a.nii.gz")
    expected = MaskRoi(path=tmp_path / "a.nii.gz").region(VOLUME).boxes
    scaled = nib.Nifti1Image(array.astype(np.float64), VOLUME.affine)
    scaled.set_data_dtype(np.int16)
    for image in (
        nib.Nifti1Image((array / 255).astype(np.float32), VOLUME.affine),
        nib.Nifti1Image(array[..., None], VOLUME.affine),
        scaled,
    ):
        nib.save(image, tmp_path / "b.nii")
        path = (tmp_path / "b.nii").rename(tmp_path / "B.NII")
        assert MaskRoi(path=path).region(VOLUME).boxes == expected
    nib.save(nib.Nifti1Image(array * np.float32(0.5 / 255), VOLUME.affine), tmp_path / "p.nii")
    with pytest.raises(ImageError, match=r"p.nii: the label map has values between whole numbers"):
        MaskRoi(path=tmp_path / "p.nii").region(VOLUME)


def test_a_mask_that_is_empty_or_elsewhere_is_refused(tmp_path):
    for shift, array, text in (
        (0, np.zeros((5, 5, 5), np.int16), "an empty mask"),
        (900, np.ones((5, 5, 5), np.int16), "lies outside the image"),
    ):
        affine = VOLUME.affine.copy()
        affine[:3, 3] += shift
        write_volume(tmp_path / "mask.nii", Volume(array=array, affine=affine))
        with pytest.raises(ImageError, match=text):
            MaskRoi(path=tmp_path / "mask.nii").region(VOLUME)


# A structure that a coarse pass finds


def blobs(shape=(80, 80, 240), where=((40, 40, 60),), value=700):
    """Return water with a ball of bone at each position."""
    array = np.zeros(shape, np.int16)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    for place in where:
        array[((grid - np.array(place)) ** 2).sum(axis=-1) < 8**2] = value
    return Volume(array=array, affine=np.diag([-2.0, -2.0, 2.0, 1.0]))


def ball_segmenter():
    return Segmenter(LoadedEngine(threshold_bundle(), ThresholdSession(hu=300.0)))


def test_a_coarse_pass_finds_the_structure_and_only_its_surroundings_are_refined():
    ours, volume = ball_segmenter(), blobs()
    whole = ours.segment(volume)
    for options in ({"roi": "bone"}, {"coarse": 2.0}):
        if "coarse" in options:
            ours.channels = (0,)
        found = ours.segment(volume, **options)
        assert found.windows < whole.windows and found.windows_skipped > 0
        np.testing.assert_array_equal(found.labels, whole.labels)
        passed = found.region["roi_structure" if "roi" in options else "coarse"]
        assert [f["name"] for f in passed["found"]] == ["bone"] and passed["missing"] == []
        assert passed["windows"] > 0
        assert found.seconds["coarse"] > 0 and found.region["outside"] == "background"


def test_what_the_coarse_pass_misses_makes_it_refine_everything():
    ours, volume = ball_segmenter(), blobs()
    found = ours.segment(volume, coarse=2.0)  # no liver: nothing is below -300 HU
    assert found.windows_skipped == 0 and found.region["coarse"]["missing"] == ["liver"]
    assert found.warnings[0] == "the coarse pass missed liver: the whole volume was refined"
    np.testing.assert_array_equal(found.labels, ours.segment(volume).labels)


def test_a_coarse_pass_that_saves_nothing_is_told():
    ours = ball_segmenter()
    ours.channels = (0,)
    small = blobs(shape=(60, 60, 60), where=((30, 30, 30),))
    for options in ({"coarse": 2.0}, {"roi": "bone"}):
        found = ours.segment(small, **options)
        assert found.windows_skipped == 0 and "the coarse pass saved no window" in found.warnings[0]
    assert not any("left out" in w for w in ours.segment(small, roi="1:50,:,:").warnings)
    assert not any("left out" in w for w in ours.segment(blobs(), coarse=2.0).warnings)


def test_another_bundle_may_find_structures():
    ours, other, volume = ball_segmenter(), ball_segmenter(), blobs()
    ours.channels = (0,)
    found = ours.segment(volume, coarse=other)
    assert found.windows_skipped > 0 and "bundle" in found.region["coarse"]["how"]
    np.testing.assert_array_equal(found.labels, ours.segment(volume).labels)
    labels = tuple(replaced for replaced in other.bundle.manifest.labels[1:])
    import msgspec

    from gcis_runtime.regions.coarse import matching_labels

    lacking = msgspec.structs.replace(other.bundle.manifest)
    with pytest.raises(PromptError, match="lacks a structure"):
        matching_labels(other.bundle.manifest.labels, Lacking(lacking.name, labels))
    with pytest.raises(OutputError, match="cannot be its own coarse pass"):
        ours.segment(volume, coarse=ours)


class Lacking:
    """Return a stub with the name and labels of a manifest."""

    def __init__(self, name, labels):
        self.name, self.labels = name, labels


@pytest.mark.parametrize("factor", [1.0, 0.5, 17.0])
def test_a_factor_that_is_none_is_refused(factor):
    with pytest.raises(OutputError, match="not a factor"):
        ball_segmenter().segment(blobs(), coarse=factor)


# The body


def scan(*, table=True):
    """Return an ellipse of tissue with lungs above a thin, shorter table."""
    array = np.full((120, 110, 80), -1000, np.int16)
    x, y, _ = np.meshgrid(*map(np.arange, array.shape), indexing="ij")
    body = ((x - 55) / 32) ** 2 + ((y - 60) / 22) ** 2 < 1
    array[body] = 40
    array[((x - 45) / 8) ** 2 + ((y - 60) / 8) ** 2 < 1] = -850
    if table:
        array[5:115, 30:31] = 100
        array[100:112, 95:105, 10:30] = 200  # something that lies beside the patient
    return Volume(array=array, affine=np.diag([-3.0, -3.0, 4.0, 1.0])), body


def test_the_body_lies_inside_and_the_table_outside():
    volume, body = scan()
    region = body_region(volume)
    kept = inside(region.boxes, volume.shape)
    assert kept[body].all()
    assert not kept[110:, 30].any() and not kept[104:112, 97:105].any()
    assert kept.mean() < 0.75
    lone, _ = scan(table=False)
    assert inside(body_region(lone).boxes, lone.shape)[body].all()
    assert body_region(Volume(array=np.full((9, 9, 9), -1000, np.int16), affine=np.eye(4))) is None


@settings(max_examples=50, deadline=None)
@given(shape=st.tuples(*(st.integers(1, 9) for _ in range(3))), seed=st.integers(0, 999))
def test_the_largest_part_is_scipys(shape, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.45
    found = largest_part(mask)
    parts, count = connected(mask)
    sizes = np.bincount(parts.ravel())[1:]
    assert found.sum() == (sizes.max() if count else 0)
    if count:
        assert len(np.unique(parts[found])) == 1 and parts[found][0] > 0


def test_cropping_to_the_body_keeps_its_labels():
    volume, body = scan()
    ours = segmenter()
    whole, part = ours.segment(volume), ours.segment(volume, body_crop=True)
    np.testing.assert_array_equal(part.labels[body], whole.labels[body])
    assert part.region["within"] == "the body" and part.seconds["body"] > 0
    air = Volume(array=np.full((20, 20, 20), -1000, np.int16), affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    assert "no body was found" in " ".join(ours.segment(air, body_crop=True).warnings)


def test_limits_meet():
    volume, _ = scan()
    part = segmenter().segment(volume, body_crop=True, roi="40:60,:,10:20")
    (x, _, z) = part.region["box"]
    assert x == [40, 60] and z == [10, 20]
    labelled = np.argwhere(part.labels)
    assert (labelled.min(axis=0) >= (40, 0, 10)).all() and (labelled.max(axis=0) < (60, 999, 20)).all()


# The command


@pytest.fixture
def run(monkeypatch, tmp_path, make_bundle):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    bundle = make_bundle()

    def invoke(*arguments):
        words = [*arguments, "--bundle", bundle, "--engine", "onnx"]
        return CliRunner().invoke(cli.main, [str(word) for word in words])

    return invoke


def test_the_command_says_what_lies_outside(run, ct, tmp_path):
    out = tmp_path / "out.nii.gz"
    result = run(ct, "-o", out, "--roi", "5:20,:,3:")
    assert result.exit_code == 0, result.output
    assert "region 5:20,0:36,3:30 (5:20,:,3:): every label outside is background" in result.stdout
    labels = np.asarray(nib.load(out).dataobj)
    assert labels[5:20, :, 3:].any() and not labels[:5].any() and not labels[20:].any()
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["region"]["outside"] == "background" and report["key"]["roi"] == "5:20,:,3:"
    for arguments in (("--coarse",), ("--coarse", "3", "--body-crop"), ("--coarse", tmp_path / "b.gcis")):
        assert run(ct, "-o", out, *arguments).exit_code == 0, arguments


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--roi", "spleen"), "neither a structure of the bundle nor a file"),
        (("--roi", "90:99,:,:"), "no voxel of the image"),
        (("--roi", "no.nii.gz"), "does not exist"),
        (("--coarse", "0.5"), "not a factor"),
        (("--coarse", "nothing"), "nothing"),
        (("--coarse", "ct.nii.gz"), "Write --coarse 2 before an image"),
    ],
)
def test_bad_limits_are_one_line_and_nothing_written(run, ct, tmp_path, arguments, text):
    result = run(ct, "-o", tmp_path / "out.nii.gz", *arguments)
    assert result.exit_code == 2 and text in result.stderr
    assert not (tmp_path / "out.nii.gz").exists()


def test_resume_knows_the_limits(run, ct, tmp_path):
    def words(result):
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "1 done by" not in words(run(ct, "-o", tmp_path / "o", "--resume", "--roi", "5:20,:,:"))
    assert "1 done by" in words(run(ct, "-o", tmp_path / "o", "--resume", "--roi", "5:20,:,:"))
    for other in (("--roi", "5:21,:,:"), (), ("--body-crop",), ("--coarse", "2")):
        assert "1 done by" not in words(run(ct, "-o", tmp_path / "o", "--resume", *other))


def test_a_box_is_a_value():
    assert parse_roi("1:2, :,3:", MANIFEST) == BoxRoi(
        ranges=((1, 2), (None, None), (3, None)), text="1:2,:,3:"
    )
