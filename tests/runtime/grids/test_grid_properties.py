"""Test that labels are on the grid of any image, with every structure at its position in the patient.

The image is linear in space, so linear interpolation makes no error: the surfaces of its two structures,
planes of one HU value each, must come back to within the rounding of the stored voxels (a twentieth of a
voxel), and at the image's border, where values are repeated, to within half a voxel.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gcis_runtime import read_volume
from gcis_runtime.grids.grid_transform import plan_grid
from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.spec import PreprocessSpec
from tests.support.fake_session import ThresholdSession, threshold_segmenter

QUIET = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
    "phases": [Phase.explicit, Phase.generate],  # shrinking a failure would take minutes
}
HU = ThresholdSession().hu
ORIENTATIONS = ["RAS", "LPS", "SAR", "PIR", None]
STORED = {
    "int16": (np.int16, 1.0, 0.0),
    "big-endian int16": (">i2", 1.0, 0.0),
    "int32": (np.int32, 1.0, 0.0),
    "float32": (np.float32, 1.0, 0.0),
    "float64": (np.float64, 1.0, 0.0),
    "scaled int16": (np.int16, 2.0, -1024.0),
    "scaled int32": (np.int32, 0.25, 100.0),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """File to write: its grid, the HU gradient per axis, and the header fields that store the affine."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    angles: tuple[float, float, float]
    order: tuple[int, int, int]
    flips: tuple[int, int, int]
    origin: tuple[float, float, float]
    slopes: tuple[float, float, float]
    centre: tuple[float, float, float]
    stored: str
    form: str
    codes: tuple[int, int]
    four: bool
    kind: str

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) with rotation, permutation and flips, without shear (tested against MONAI elsewhere)."""
        axes = np.eye(3)[:, list(self.order)] * np.array(self.flips)
        affine = np.eye(4)
        rotation = Rotation.from_euler("xyz", self.angles, degrees=True).as_matrix()
        affine[:3, :3] = rotation @ axes @ np.diag(self.spacing)
        affine[:3, 3] = self.origin
        return affine

    def hu(self, index: np.ndarray) -> np.ndarray:
        """Return the HU at voxel indices (3, ...) of the file: linear, with 0 inside the grid."""
        middle = np.array(self.centre) * (np.array(self.shape) - 1)
        return np.tensordot(np.array(self.slopes), index, 1) - float(np.dot(self.slopes, middle))

    @property
    def rounding(self) -> float:
        """Largest difference of a stored voxel from `hu`."""
        dtype, slope, _ = STORED[self.stored]
        return slope / 2 if np.dtype(dtype).kind == "i" else 0.01


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = [draw(st.integers(1, 300)), draw(st.integers(1, 14)), draw(st.integers(1, 9))]
    three = st.tuples
    slope = st.builds(lambda sign, size: sign * size, st.sampled_from([-1, 1]), st.floats(20, 60))
    share = st.floats(0.2, 0.8)
    oblique = st.floats(-30, 30)
    return Case(
        shape=tuple(draw(st.permutations(sizes))),
        spacing=draw(three(*[st.floats(0.3, 8)] * 3)),
        angles=draw(st.one_of(st.just((0.0, 0.0, 0.0)), three(oblique, oblique, oblique))),
        order=tuple(draw(st.permutations([0, 1, 2]))),
        flips=draw(three(*[st.sampled_from([-1, 1])] * 3)),
        origin=draw(three(*[st.floats(-500, 500)] * 3)),
        slopes=draw(three(slope, slope, slope)),
        centre=draw(three(share, share, share)),
        stored=draw(st.sampled_from(sorted(STORED))),
        form=draw(st.sampled_from(["both", "sform", "qform", "disagree"])),
        codes=draw(three(st.integers(1, 4), st.integers(1, 4))),
        four=draw(st.booleans()),
        kind=draw(st.sampled_from(["nifti1", "nifti2"])),
    )


def write(case: Case, path: Path) -> nib.Nifti1Image:
    """Write a case and return it as nibabel reads it."""
    dtype, slope, inter = STORED[case.stored]
    hu = case.hu(np.indices(case.shape))
    stored = (hu - inter) / slope
    if np.dtype(dtype).kind == "i":
        stored = np.round(stored)
    kind = nib.Nifti1Image if case.kind == "nifti1" else nib.Nifti2Image
    header = kind.header_class(endianness=">" if case.stored.startswith("big") else "<")
    header.set_data_dtype(dtype)
    array = stored[..., None] if case.four else stored
    image = kind(array.astype(np.dtype(dtype).newbyteorder("=")), case.affine, header)
    image.header.set_slope_inter(slope, inter)
    other = case.affine @ np.diag([1, 1, 1, 1.0])
    other[:3, 3] += 40
    image.set_qform(other if case.form == "disagree" else case.affine, code=case.codes[0])
    image.set_sform(case.affine, code=case.codes[1])
    if case.form == "sform":
        image.set_qform(None, code=0)
    if case.form == "qform":
        image.set_sform(None, code=0)
    # nibabel would choose its own scaling: header and voxels are written as they are.
    image.header.set_data_offset(image.header.single_vox_offset)
    padding = bytes(image.header.single_vox_offset - len(image.header.binaryblock))
    voxels = array.astype(dtype).tobytes(order="F")
    path.write_bytes(image.header.binaryblock + padding + voxels)
    return nib.load(path)


def check(case: Case, spec: PreprocessSpec, restore: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "ct.nii", Path(folder) / "seg.nii"
        before = write(case, source)
        volume = read_volume(source)
        assert ("disagree" in " ".join(volume.notes)) == (case.form == "disagree")
        with threshold_segmenter(orientation=spec.orientation, spacing=spec.spacing) as segmenter:
            segmenter.segment(volume, restore=restore).save(target)
        after = nib.load(target)
        check_grid(case, before, after)
        check_labels(case, volume.affine, spec, np.asarray(after.dataobj), restore)
        check_network_grid(case, volume, spec)


def check_grid(case: Case, before: nib.Nifti1Image, after: nib.Nifti1Image) -> None:
    assert after.shape == case.shape
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-5)
    # What was meant, up to float32; a quaternion near 180 degrees holds its angle to 7e-4 only.
    np.testing.assert_allclose(after.affine, case.affine, atol=1e-2 if case.form == "qform" else 1e-3)
    for field in ("qform_code", "sform_code"):
        assert int(after.header[field]) == int(before.header[field])
    np.testing.assert_allclose(after.header.get_sform(), before.header.get_sform(), atol=1e-5)
    np.testing.assert_allclose(after.header.get_qform(), before.header.get_qform(), atol=1e-5)


def check_labels(
    case: Case, affine: np.ndarray, spec: PreprocessSpec, labels: np.ndarray, restore: str
) -> None:
    """Compare with the HU of the image; tolerances are in HU, and a voxel is 20 to 60 HU."""
    index = np.indices(case.shape).reshape(3, -1).astype(np.float64)
    hu = case.hu(index)
    transform = plan_grid(case.shape, affine, spec)
    to_network = np.linalg.solve(transform.affine, affine)
    where = to_network[:3, :3] @ index + to_network[:3, 3:]
    step = np.abs(np.array(case.slopes) @ np.linalg.inv(to_network)[:3, :3])  # HU a network voxel
    allowed = np.full(hu.shape, case.rounding + 0.1)
    for axis, n in enumerate(transform.shape if transform.to_network is not None else ()):
        outside = beyond(where[axis], 0, n - 1)
        check_border(outside.max(), where[axis].min(), step_ratio=np.linalg.norm(to_network[axis, :3]))
        ends = where[axis].min(), where[axis].max()
        cell = np.clip(np.floor(where[axis]), 0, n - 1)
        repeated = np.maximum(beyond(cell, *ends), beyond(np.minimum(cell + 1, n - 1), *ends))
        allowed += step[axis] * (outside + repeated + (0.5 if restore == "nearest" else 0.0))
    labels = labels.reshape(-1)
    for value, margin in ((1, hu - HU), (2, -hu - HU)):
        wrong = (labels == value) != (margin > 0)
        assert np.all(np.abs(margin[wrong]) <= allowed[wrong]), case


def beyond(position: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the distance of positions from an interval: border values are repeated beyond the grid."""
    return np.maximum(0, np.maximum(low - position, position - high))


def check_border(outside: float, first: float, *, step_ratio: float) -> None:
    """The network grid ends within half a voxel (of the coarser grid) of the end of the image.

    It starts at the image's first voxel, and rounding its size moves the other end by up to half a voxel.
    Where float32 in an oblique header hides which voxel is first, MONAI centres it instead (`shape / 2`):
    then both ends share half the difference of the voxel sizes and half the rounding, a quarter.
    """
    assert outside <= 0.5 * max(1, step_ratio) + (1e-3 if abs(first) < 1e-3 else 0.25)


def check_network_grid(case: Case, volume, spec: PreprocessSpec) -> None:
    """The network input has the orientation and spacing of training."""
    image = preprocess(volume, spec)
    transform = image.transform
    if spec.orientation is not None:
        assert "".join(nib.aff2axcodes(transform.affine)) == spec.orientation
    if spec.spacing is not None:
        spacing = np.linalg.norm(transform.affine[:3, :3], axis=0)
        np.testing.assert_allclose(spacing, spec.spacing, atol=2e-3)
    index = np.indices(transform.shape).reshape(3, -1).astype(np.float64)
    to_file = np.linalg.solve(volume.affine, transform.affine)
    where = to_file[:3, :3] @ index + to_file[:3, 3:]
    inside = np.all((where >= -1e-3) & (where <= np.array(case.shape)[:, None] - 1 + 1e-3), axis=0)
    low, high = spec.intensity_window
    seen = image.array.reshape(-1)[inside] * (high - low) + low
    expected = np.clip(case.hu(where[:, inside]), low, high)
    assert np.all(np.abs(seen - expected) <= case.rounding + 0.2)


@st.composite
def specs(draw: st.DrawFn) -> PreprocessSpec:
    size = draw(st.sampled_from([None, (2.0, 2.0, 2.0), (1.5, 3.0, 4.0)]))
    return PreprocessSpec(
        orientation=draw(st.sampled_from(ORIENTATIONS)), spacing=size, intensity_window=(-4000.0, 4000.0)
    )


restores = st.sampled_from(["smooth", "nearest"])


@settings(max_examples=60, derandomize=True, **QUIET)
@given(case=cases(), spec=specs(), restore=restores)
def test_labels_land_on_the_grid_and_where_the_structures_are(case, spec, restore):
    check(case, spec, restore)


@pytest.mark.slow
@settings(max_examples=1000, **QUIET)
@given(case=cases(), spec=specs(), restore=restores)
def test_the_same_for_a_thousand_files(case, spec, restore):
    check(case, spec, restore)
