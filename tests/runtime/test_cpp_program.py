"""Test that the C++ program of `examples/cpp` writes the labels of the runtime, and refuses damaged input."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gcis_runtime import Segmenter, read_volume
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.runs.phantom import write_phantom
from gcis_runtime.spec import Foreground, PreprocessSpec, WindowSpec
from scripts.contract_vectors import FOLDER
from tests.support.bundles_and_images import smooth_ct, write_ct

pytestmark = pytest.mark.service
SOURCE = Path(__file__).parents[2] / "examples" / "cpp"
ROTATION = np.array([[1.0, 8, -4], [4, -4, -7], [8, 1, 4]]) / 9


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build both programs with the library of the installed onnxruntime wheel."""
    folder = tmp_path_factory.mktemp("cpp")
    command = ["make", "-s", "-C", str(SOURCE), f"BUILD={folder}", f"PYTHON={sys.executable}", "CXX=g++"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a warning of the compiler"
    return folder


@pytest.fixture(scope="module")
def program(built):
    """Return a function that runs `gcis-segment` with arguments."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(built / "gcis-segment"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)

    return run


def affine_of(linear: np.ndarray) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = linear, (-40.5, 20.25, 300.0)
    return out


def compare(program, bundle: object, image: Path, folder: Path, *, raw: bool = True) -> float:
    """Segment with both programs, require equal headers, and return the share of different voxels."""
    done = program(bundle, image, "-o", folder / "cpp.nii.gz", "--threads", 2)
    assert done.returncode == 0, done.stderr
    with Segmenter.open(bundle, engine="onnx", precision="fp32", threads=2) as segmenter:
        segmenter.segment(read_volume(image), raw=raw).save(folder / "python.nii.gz")
    found, expected = (
        gzip.decompress((folder / f"{name}.nii.gz").read_bytes()) for name in ("cpp", "python")
    )
    assert len(found) == len(expected)
    if int.from_bytes(expected[:4], "little") == 348:  # otherwise the file keeps the byte order of the image
        assert found[:352] == expected[:352]
    labels, truth = (np.asarray(nib.load(folder / f"{n}.nii.gz").dataobj) for n in ("cpp", "python"))
    assert labels.shape == truth.shape and np.count_nonzero(truth) > 100
    np.testing.assert_array_equal(
        nib.load(folder / "cpp.nii.gz").affine, nib.load(folder / "python.nii.gz").affine
    )
    return float(np.mean(labels != truth))


def test_each_step_equals_the_vectors(built, tmp_path):
    check = [str(built / "check-vectors")]
    done = subprocess.run([*check, str(FOLDER)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "DIFFERENT" not in done.stdout, done.stdout + done.stderr
    changed = shutil.copytree(FOLDER, tmp_path / "changed")
    for name in ("segment.smooth", "aligned.input", "weights-64x64x64.31", "wide.label-header"):
        data = bytearray((changed / name).read_bytes())
        data[:80] = bytes(byte ^ 0x3F for byte in data[:80])
        (changed / name).write_bytes(data)
    index = json.loads((changed / "index.json").read_text())
    index["plans"][1]["starts"][0][0] += 1
    (changed / "index.json").write_text(json.dumps(index))
    done = subprocess.run([*check, str(changed)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout.count("DIFFERENT") == 5, done.stdout


def test_the_demo_bundle_on_a_phantom(program, tmp_path):
    image, _ = write_phantom(11, tmp_path)
    assert compare(program, find_bundle("demo", ()), image, tmp_path) <= 1e-4


def test_an_oblique_anisotropic_image_with_permuted_and_flipped_axes(program, make_bundle, tmp_path):
    image = write_ct(tmp_path / "ct.nii.gz", shape=(60, 90, 40), affine=affine_of(ROTATION * (1.5, 2.5, 4)))
    assert compare(program, make_bundle(), image, tmp_path) <= 1e-4


def test_a_sheared_image_with_a_foreground_rule(program, make_bundle, tmp_path):
    array = np.full((70, 50, 40), -1000, dtype=np.int16)
    array[20:60, 10:40, 5:30] = smooth_ct((40, 30, 25))
    tilted = affine_of(np.array([[-2.0, 0, 0], [0, -2.0, 0.9], [0, 0, 3.0]]))
    nib.save(nib.Nifti1Image(array, tilted), tmp_path / "ct.nii.gz")
    spec = PreprocessSpec(
        orientation="LPS",
        spacing=(1.5, 2.0, 2.0),
        intensity_window=(-200, 300),
        foreground=Foreground(margin=3),
    )
    window = WindowSpec(patch_size=(64, 64, 64), overlap=0.25, sigma_scale=0.2)
    bundle = make_bundle(preprocess=spec, window=window, values=(2, 700))
    assert compare(program, bundle, tmp_path / "ct.nii.gz", tmp_path) <= 1e-4


@pytest.mark.parametrize("kind", ["big-endian", "scaled", "four axes", "qform", "metres"])
def test_other_forms_of_a_file(program, make_bundle, tmp_path, kind):
    array, affine = smooth_ct((40, 36, 30)), affine_of(np.diag([-3.0, -3.0, 3.0]))
    if kind == "metres":
        affine[:3] /= 1000
    if kind == "four axes":
        array = array[..., None]
    if kind == "big-endian":
        image = nib.Nifti1Image(array.astype(">i4"), affine, nib.Nifti1Header(endianness=">"))
        image.set_data_dtype(">i4")
    else:
        image = nib.Nifti1Image(array, affine)
    if kind == "qform":
        image.set_qform(affine_of(ROTATION * (3, 3, 3)), code=1)
        image.set_sform(None, code=0)
    if kind == "metres":
        image.header.set_xyzt_units("meter")
    if kind == "scaled":
        image.header.set_slope_inter(0.5, -100)
    nib.save(image, tmp_path / "ct.nii")
    bundle = make_bundle(
        preprocess=PreprocessSpec(orientation="LPI", spacing=(3.5, 3.0, 2.5), intensity_window=(-500, 700))
    )
    assert compare(program, bundle, tmp_path / "ct.nii", tmp_path) <= 1e-4


DAMAGE = {
    "another size of the header": (0, np.int32(349)),
    "no axes": (40, np.int16(0)),
    "too many axes": (40, np.int16(3000)),
    "two volumes": (40, np.array([4, 40, 36, 30, 2], dtype=np.int16)),
    "a negative axis": (42, np.int16(-40)),
    "a larger image than the file": (42, np.array([32767, 32767, 32767], dtype=np.int16)),
    "complex voxels": (70, np.int16(32)),
    "another number of bits": (72, np.int16(64)),
    "voxels inside the header": (108, np.float32(16)),
    "voxels far behind the file": (108, np.float32(1e30)),
    "an offset that is not a number": (108, np.float32(np.nan)),
    "an infinite affine": (280, np.array([np.inf] * 12, dtype=np.float32)),
    "a singular affine": (280, np.zeros(12, dtype=np.float32)),
    "two files": (344, np.frombuffer(b"ni1\0", dtype=np.uint8)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_header_is_an_error(program, make_bundle, ct, tmp_path, damage):
    place, value = DAMAGE[damage]
    data = bytearray(gzip.decompress(ct.read_bytes()))
    data[place : place + value.nbytes] = value.tobytes()
    bundle = make_bundle()
    for name, content in (("bad.nii", bytes(data)), ("bad.nii.gz", gzip.compress(bytes(data)))):
        (tmp_path / name).write_bytes(content)
        done = program(bundle, tmp_path / name, "-o", tmp_path / "out.nii")
        assert done.returncode == 1 and done.stderr.startswith("error: "), done
        assert not list(tmp_path.glob("out*"))


def test_random_damage_never_ends_in_a_crash(program, make_bundle, ct, tmp_path):
    bundle, rng = make_bundle(), np.random.default_rng(0)
    data, stored = gzip.decompress(ct.read_bytes()), ct.read_bytes()
    codes = []
    for number in range(120):
        original = (data[:5000], stored, data)[number % 3]
        bad = bytearray(original[: rng.integers(len(original) // 2, len(original) + 1)])
        for place in rng.integers(0, min(len(bad), 348), rng.integers(1, 6)):
            bad[place] = rng.integers(256)
        (tmp_path / "bad.nii.gz").write_bytes(bad)
        done = program(bundle, tmp_path / "bad.nii.gz", "-o", tmp_path / "out.nii.gz")
        codes.append(done.returncode)
        assert done.returncode in (0, 1), (number, done)
        assert (done.returncode == 0) == (tmp_path / "out.nii.gz").exists()
        (tmp_path / "out.nii.gz").unlink(missing_ok=True)
    assert codes.count(1) > 60


UNUSABLE = {
    "is not the file that was exported": lambda m: m["files"][0].update(sha256="0" * 64),
    "another format": lambda m: m.update(schema_version=3),
    "does not know a field of preprocess": lambda m: m["preprocess"].update(denoise=True),
    "do not match window and labels": lambda m: m["window"].update(roi=[64, 64, 96]),
    "sliding window cannot be used": lambda m: m["window"].update(overlap=1.0),
    "label value cannot be stored": lambda m: m["labels"][0].update(value=-1),
    "manifest.json is damaged": lambda m: m.pop("labels"),
    "ONNX Runtime failed on a window": lambda m: m["output"].update(name="logits"),
}
"""Changes of a manifest by the message that they cause."""


@pytest.mark.parametrize("text", UNUSABLE)
def test_a_bundle_that_cannot_be_used_is_an_error(program, make_bundle, ct, tmp_path, text):
    bundle = make_bundle()
    manifest = json.loads((bundle / "manifest.json").read_text())
    UNUSABLE[text](manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    done = program(bundle, ct, "-o", tmp_path / "out.nii.gz")
    assert done.returncode == 1 and text in done.stderr, done.stderr
    assert not (tmp_path / "out.nii.gz").exists()


def test_wrong_arguments_and_places_are_errors(program, make_bundle, ct, tmp_path):
    bundle = make_bundle()
    for arguments in (
        (),
        (bundle, ct),
        (bundle, ct, "-o", "x.txt"),
        (bundle, ct, "-o", "x.nii", "--threads", "0"),
    ):
        done = program(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("usage: "), done
    done = program(bundle, ct, "-o", tmp_path / "absent" / "x.nii.gz")
    assert done.returncode == 1 and "cannot be written" in done.stderr
    assert program(tmp_path / "none.gcis", ct, "-o", tmp_path / "x.nii").returncode == 1
