"""Test series and results against other programs: dicom3tools, dcm2niix, GDCM, dcmtk, plastimatch, dcmqi.

`.ci/run` installs the programs. These tests are marked dicom and are not part of the default run.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from gcis_runtime.cli.run import main
from gcis_runtime.demo.phantom import make_phantom
from gcis_runtime.dicom.jpeg12 import decode_jpeg12
from gcis_runtime.dicom.results.files import save_dicom
from gcis_runtime.dicom.results.request import DicomStructure
from gcis_runtime.dicom.results.rtstruct import make_rtstruct
from gcis_runtime.dicom.study import read_dicom
from gcis_runtime.errors import ImageError
from gcis_runtime.images.files import read_volume
from gcis_runtime.images.volume import Volume
from tests.runtime.dicom.test_results import request, series
from tests.runtime.dicom.tools import findings, program, run
from tests.support.dicom_series import Coding, enhanced_of, sheared, slices_of, write

pytestmark = pytest.mark.dicom

ALLOWED = {
    "Unrecognized defined term = <99GCIS>": "the private scheme of measurements without a standard code",
}
"""Messages of dciodvfy that are explained in docs/how-to/dicom.md."""


@pytest.fixture(scope="session")
def ct() -> Volume:
    """Return a coarse part of the phantom."""
    phantom = make_phantom(7)
    return Volume.from_array(phantom.ct, affine=phantom.affine)


@pytest.fixture(scope="session")
def results(ct: Volume, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Segment the phantom as a plain and as a tilted series with the demo bundle; return the folders."""
    found = {}
    for name, volume in (("plain", ct), ("tilted", sheared(ct, 12))):
        folder = tmp_path_factory.mktemp(name)
        write(slices_of(volume), folder / "study")
        formats = [part for kind in ("dicom-seg", "rtstruct", "nii.gz") for part in ("--format", kind)]
        shown = CliRunner().invoke(main, [str(folder / "study"), "--bundle", "demo", *formats, "--sr"])
        assert shown.exit_code == 0, shown.output
        found[name] = folder
    return found


def unexplained(path: Path) -> list[str]:
    return [line for line in findings(path) if not any(part in line for part in ALLOWED)]


@pytest.mark.parametrize("kind", ["plain", "tilted"])
def test_dciodvfy_accepts_every_result(results: dict[str, Path], kind: str) -> None:
    files = sorted(results[kind].glob("*.dcm"))
    assert [f.name for f in files] == ["study_rtstruct.dcm", "study_seg.dcm", "study_sr.dcm"]
    assert {f.name: unexplained(f) for f in files} == {f.name: [] for f in files}


def test_the_generated_series_are_valid(ct: Volume, tmp_path: Path) -> None:
    part = Volume(array=ct.array[:, :, :3], affine=ct.affine)
    for k, syntax in enumerate((None, JPEG2000Lossless, JPEGLSLossless, RLELossless)):
        coding = Coding() if syntax is None else Coding(syntax=syntax)
        for file in write(slices_of(part, coding=coding), tmp_path / str(k)).iterdir():
            assert findings(file) == []


def test_plastimatch_rasterises_the_contours_to_the_labels(results: dict[str, Path], tmp_path: Path) -> None:
    folder = results["plain"]
    contours, study = folder / "study_rtstruct.dcm", folder / "study"
    to = ("--output-prefix", tmp_path / "m", "--prefix-format", "nii.gz")
    run("plastimatch", "convert", "--input", contours, "--referenced-ct", study, *to)
    labels = np.asarray(nib.load(folder / "study_seg.nii.gz").dataobj)
    report = json.loads((folder / "study_seg.json").read_text())
    for structure in report["structures"]:
        mask = nib.load(tmp_path / "m" / f"{structure['name']}.nii.gz")
        drawn = on_grid_of(nib.load(folder / "study_seg.nii.gz"), mask) > 0
        truth = labels == structure["value"]
        assert 2 * (drawn & truth).sum() / (drawn.sum() + truth.sum()) >= 0.97, structure["name"]


def test_plastimatch_rasterises_contours_with_holes_at_1_mm(tmp_path: Path) -> None:
    x, y, z = np.indices((70, 64, 40)) - np.array([34.0, 31, 19]).reshape(3, 1, 1, 1)
    distance = np.sqrt(x**2 + (1.2 * y) ** 2 + (1.5 * z) ** 2)
    labels = np.select([distance < 9, (distance > 14) & (distance < 24)], [3, 5]).astype(np.uint8)
    ct = Volume(array=np.zeros(labels.shape, np.int16), affine=np.diag([-1.0, -1, 1, 1]))
    image = series(write(slices_of(ct), tmp_path / "s"))
    structures = [DicomStructure(value=v, name=n, color=(9, 9, 9)) for v, n in ((3, "core"), (5, "shell"))]
    save_dicom(tmp_path / "rt.dcm", make_rtstruct(request(image, labels=labels, structures=structures)))
    to = ("--output-prefix", tmp_path / "m", "--prefix-format", "nii.gz")
    run("plastimatch", "convert", "--input", tmp_path / "rt.dcm", "--referenced-ct", tmp_path / "s", *to)
    like = nib.Nifti1Image(labels, ct.affine)
    for structure in structures:
        drawn = on_grid_of(like, nib.load(tmp_path / "m" / f"{structure.name}.nii.gz")) > 0
        truth = labels == structure.value
        assert 2 * (drawn & truth).sum() / (drawn.sum() + truth.sum()) >= 0.97, structure.name


def test_dcmqi_reads_the_labels_at_their_places(results: dict[str, Path], tmp_path: Path) -> None:
    folder = results["plain"]
    run("segimage2itkimage", "--inputDICOM", folder / "study_seg.dcm", "--outputDirectory", tmp_path,
        "-t", "nii", "--mergeSegments")  # fmt: skip
    image = nib.load(folder / "study_seg.nii.gz")
    found = on_grid_of(image, nib.load(next(tmp_path.glob("*.nii.gz"))))
    assert np.array_equal(found, np.asarray(image.dataobj))


def on_grid_of(image: nib.Nifti1Image, other: nib.Nifti1Image) -> np.ndarray:
    """Return the nearest values of another image at the voxels of an image; 0 outside."""
    index = np.indices(image.shape).reshape(3, -1)
    to_other = np.linalg.inv(other.affine) @ image.affine
    where = np.rint(to_other[:3, :3] @ index + to_other[:3, 3:]).astype(int)
    inside = np.all((where >= 0) & (where < np.array(other.shape[:3])[:, None]), axis=0)
    values = np.zeros(index.shape[1], dtype=np.int64)
    values[inside] = np.asarray(other.dataobj).reshape(other.shape[:3])[tuple(where[:, inside])]
    return values.reshape(image.shape)


SYNTAXES = {
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg 2000": JPEG2000Lossless,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
}


@pytest.mark.parametrize("made", ["plain", *SYNTAXES, "signed", "feet first", "enhanced"])
def test_dcm2niix_gives_the_same_image(ct: Volume, tmp_path: Path, made: str) -> None:
    volume = Volume(array=ct.array[:, :, 40:60], affine=ct.affine)
    coding = Coding(syntax=SYNTAXES[made]) if made in SYNTAXES else Coding()
    if made == "signed":
        coding = Coding(bits=16, signed=True, intercepts=(0,))
    if made == "feet first":
        flip = np.diag([1.0, 1, -1, 1])
        flip[2, 3] = 19
        volume = Volume(array=volume.array[:, :, ::-1].copy(), affine=volume.affine @ flip)
    slices = [enhanced_of(volume)] if made == "enhanced" else slices_of(volume, coding=coding)
    folder = write(slices, tmp_path / "s")
    run("dcm2niix", "-z", "n", "-f", "x", "-o", tmp_path, folder)
    theirs = nib.as_closest_canonical(nib.load(tmp_path / "x.nii"))
    found = read_dicom(folder)
    ours = nib.as_closest_canonical(nib.Nifti1Image(found.array, found.affine))
    assert np.array_equal(np.asarray(theirs.dataobj), np.asarray(ours.dataobj))
    if made == "enhanced":  # dcm2niix takes the slice distance from the frames that are stored first and last
        assert np.allclose(ours.affine, volume.affine, atol=1e-3)
    else:
        assert np.allclose(theirs.affine, ours.affine, atol=1e-3)


CONVERTERS: dict[str, Callable[[Path, Path], list[str]]] = {
    "JPEG lossless, first-order": lambda a, b: ["dcmcjpeg", "+e1", str(a), str(b)],
    "JPEG lossless": lambda a, b: ["dcmcjpeg", "+el", str(a), str(b)],
    "JPEG-LS by dcmtk": lambda a, b: ["dcmcjpls", str(a), str(b)],
    "RLE by dcmtk": lambda a, b: ["dcmcrle", str(a), str(b)],
    "big endian by dcmtk": lambda a, b: ["dcmconv", "+tb", str(a), str(b)],
    "deflated by dcmtk": lambda a, b: ["dcmconv", "+td", str(a), str(b)],
    "JPEG 2000 by GDCM": lambda a, b: ["gdcmconv", "--j2k", str(a), str(b)],
    "JPEG by GDCM": lambda a, b: ["gdcmconv", "--jpeg", str(a), str(b)],
}


@pytest.mark.parametrize("name", CONVERTERS)
def test_files_encoded_by_other_programs(ct: Volume, tmp_path: Path, name: str) -> None:
    volume = Volume(array=ct.array[:, :, 50:54], affine=ct.affine)
    folder = write(slices_of(volume), tmp_path / "s")
    (tmp_path / "t").mkdir()
    for file in folder.iterdir():
        tool, *args = CONVERTERS[name](file, tmp_path / "t" / file.name)
        subprocess.run([program(tool), *args], check=True, capture_output=True, timeout=60)
    assert np.array_equal(read_dicom(tmp_path / "t").array, read_dicom(folder).array)


def test_lossy_jpeg_of_12_and_of_8_bits_is_decoded_as_by_dcmtk(ct: Volume, tmp_path: Path) -> None:
    volume = Volume(array=ct.array[:, :, 50:54], affine=ct.affine)
    folder = write(slices_of(volume), tmp_path / "s")
    for option, bits in (("+ee", 12), ("+eb", 8)):
        coded, plain = tmp_path / f"coded{bits}", tmp_path / f"plain{bits}"
        coded.mkdir()
        plain.mkdir()
        for file in folder.iterdir():
            run("dcmcjpeg", option, file, coded / file.name)
            run("dcmdjpeg", coded / file.name, plain / file.name)
        assert pydicom.dcmread(next(coded.iterdir())).BitsStored == bits
        found = read_dicom(coded)
        assert np.array_equal(found.array, read_dicom(plain).array)
        assert np.abs(found.array.astype(float) - volume.array).max() <= (60 if bits == 12 else 200)
    file = sorted((tmp_path / "coded12").iterdir())[0]
    ds = pydicom.dcmread(file)
    code = get_frame(ds.PixelData, 0, number_of_frames=1)
    unsigned, signed = (
        decode_jpeg12(code, rows=ds.Rows, columns=ds.Columns, bits=12, signed=kind).astype(int)
        for kind in (False, True)
    )
    assert unsigned.max() > 2047 and np.array_equal(
        signed, np.where(unsigned > 2047, unsigned - 4096, unsigned)
    )
    ds.PixelData = encapsulate([code[: len(code) // 3]])
    ds.save_as(file)
    with pytest.raises(ImageError, match=r"cannot be decoded; .* of 12 bits.*dcmdjpeg"):
        read_dicom(tmp_path / "coded12")


def test_simpleitk_reads_our_nifti_where_the_series_is(results: dict[str, Path]) -> None:
    tilted = results["tilted"]
    labels, volume = read_volume(tilted / "study_seg.nii.gz"), read_dicom(tilted / "study")
    assert np.allclose(labels.affine, volume.affine, atol=1e-3) and labels.shape == volume.shape
