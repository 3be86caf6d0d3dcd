"""Test broken and hostile input: one clear line, exit code 2, bounded memory, no output.

All cases run in one process whose address space is limited and which would be killed for ten seconds of
computing on a single case.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.onnx_graph import check_onnx
from gcis_runtime.errors import BundleError
from tests.support.bundles_and_images import conv_weights, file_entry, write_bundle, write_ct

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and signals of POSIX")

ADDRESS_SPACE = 3 << 30
MAX_GROWTH = 300 << 20
VOXELS = bytes(9 * 8 * 7 * 2)


def header(**fields: object) -> bytes:
    """Return a valid header of 9 x 8 x 7 int16 voxels with some fields replaced."""
    made = nib.Nifti1Header()
    made.set_data_dtype(np.int16)
    made.set_data_shape((9, 8, 7))
    made["magic"], made["vox_offset"] = b"n+1", 352
    made.set_sform(np.diag([2.0, 2, 2, 1]), code=1)
    for name, value in fields.items():
        made[name] = value
    return bytes(made.binaryblock) + bytes(4)


def zeros(gib: int) -> bytes:
    """Return a number of GiB of zeros, compressed in members of 64 MiB."""
    return gzip.compress(bytes(1 << 26), compresslevel=1) * (16 * gib)


def raw(data: bytes) -> Callable[[Path], Path]:
    """Return a function that writes `data` as an image file."""

    def write(folder: Path) -> Path:
        path = folder / "ct.nii.gz"
        path.write_bytes(data)
        return path

    return write


def quaternion_too_long() -> bytes:
    return header(sform_code=0, qform_code=1, quatern_b=2.0, quatern_c=2.0)


def with_extension(size: int) -> bytes:
    """Return a header extension that claims to have `size` bytes."""
    block = header(vox_offset=352 + 64)[:348] + b"\x01\0\0\0" + np.array([size, 6], "<i4").tobytes()
    return block + bytes(56) + VOXELS


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.nii.gz")
    return folder / "pipe.nii.gz"


def circle(folder: Path) -> Path:
    (folder / "circle.nii.gz").symlink_to("circle.nii.gz")
    return folder / "circle.nii.gz"


def nan_image(folder: Path) -> Path:
    array = np.zeros((5, 5, 5), np.float32)
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    nib.save(nib.Nifti1Image(array, np.eye(4)), folder / "ct.nii.gz")
    return folder / "ct.nii.gz"


def cut(folder: Path) -> Path:
    path = write_ct(folder / "ct.nii.gz")
    path.write_bytes(path.read_bytes()[:3000])
    return path


def scaled_beyond(**fields: object) -> bytes:
    return header(**fields) + np.full(504, 30000, "<i2").tobytes()


IMAGES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated gzip": (cut, "damaged or truncated"),
    "bomb behind a small header": (raw(gzip.compress(header() + VOXELS) + zeros(4)), "continues after"),
    "bomb with a header to match": (
        raw(gzip.compress(header(dim=[3, 1290, 1290, 1290, 1, 1, 1, 1])) + zeros(4)), "too small for a CT",
    ),
    "bomb that is no image": (raw(zeros(4)), "not a NIfTI file"),
    "more voxels than any scan": (raw(header(dim=[3, 32000, 32000, 32000, 1, 1, 1, 1])), "implausible"),
    "more than the file could hold": (raw(header(dim=[3, 999, 999, 999, 1, 1, 1, 1])), "truncated"),
    "negative dim": (raw(header(dim=[3, 9, -8, 7, 1, 1, 1, 1]) + VOXELS), "empty"),
    "no dims": (raw(header(dim=[0, 9, 8, 7, 1, 1, 1, 1]) + VOXELS), "not three-dimensional"),
    "too many dims": (raw(header(dim=[99, 9, 8, 7, 1, 1, 1, 1]) + VOXELS), "damaged header"),
    "nan pixdim": (raw(header(pixdim=[1, np.nan, 2, 2, 0, 0, 0, 0]) + VOXELS), "pixdim is not finite"),
    "infinite pixdim": (raw(header(pixdim=[1, 2, np.inf, 2, 0, 0, 0, 0]) + VOXELS), "pixdim is not finite"),
    "bitpix of another type": (raw(header(bitpix=32) + VOXELS * 2), "bitpix does not match"),
    "unknown datatype": (raw(header(datatype=7777) + VOXELS), "damaged header"),
    "vox_offset beyond the file": (raw(header(vox_offset=1e6) + VOXELS), "truncated"),
    "vox_offset beyond reason": (raw(gzip.compress(header(vox_offset=3e9)) + zeros(4)), "vox_offset is imp"),
    "negative vox_offset": (raw(header(vox_offset=-352) + VOXELS), "vox_offset is implausible"),
    "nan vox_offset": (raw(header(vox_offset=np.nan) + VOXELS), "vox_offset is implausible"),
    "vox_offset in the header": (raw(header(vox_offset=100) + VOXELS), "damaged header"),
    "impossible quaternion": (raw(quaternion_too_long() + VOXELS), "damaged header"),
    "nan sform": (raw(header(srow_x=[np.nan] * 4) + VOXELS), "affine"),
    "singular sform": (raw(header(srow_y=[2, 0, 0, 0]) + VOXELS), "implausible; received 2.82843, 0, 2"),
    "folded sform": (raw(header(srow_x=[2, 2, 0, 0], srow_y=[2, 2, 0, 0]) + VOXELS), "affine is singular"),
    "nan intercept": (raw(header(scl_slope=2, scl_inter=np.nan) + VOXELS), "damaged header"),
    "scaled to infinity": (raw(scaled_beyond(scl_slope=1e38)), "504 of 504 voxels NaN or infinite"),
    "NaN and infinity": (nan_image, "3 of 125 voxels"),
    "the length of a header alone": (raw(header()[:348]), "truncated"),
    "many voxels more than dims": (raw(header() + VOXELS + bytes(2 << 20)), "continues after its last voxel"),
    "an empty folder": (lambda folder: folder, "contains no image"),
    "a pipe": (fifo, "not a regular file"),
    "a device": (lambda _: Path("/dev/zero"), "not a regular file"),
    "links in a circle": (circle, "does not exist"),
    "nothing": (lambda folder: folder / "no.nii.gz", "does not exist"),
    "a folder as NRRD": (lambda folder: (folder / "a.nrrd").mkdir() or folder / "a.nrrd", "no image"),
}  # fmt: skip


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def add(folder: Path, path: str) -> None:
    edit(folder, lambda m: m["files"].append({**m["files"][0], "path": path}))


def rehash(folder: Path, *names: str) -> None:
    """Update the manifest for the current files."""
    entries = [file_entry(folder, name) for name in ("model.onnx", *names)]
    listed = [{"path": e.path, "sha256": e.sha256, "bytes": e.bytes} for e in entries]
    edit(folder, lambda m: m.update(files=listed))


def swap_hashes(folder: Path) -> None:
    (folder / "other").write_bytes(bytes((folder / "model.onnx").stat().st_size))
    rehash(folder, "other")

    def swap(manifest: dict) -> None:
        one, two = manifest["files"]
        one["sha256"], two["sha256"] = two["sha256"], one["sha256"]

    edit(folder, swap)


def link(folder: Path, to: str) -> None:
    (folder / "link").symlink_to(to)
    add(folder, "link")


def external(folder: Path, location: str, *, nested: bool = False) -> None:
    """Move a weight of the graph to another file, and update the hash."""
    model = onnx.load(folder / "model.onnx")
    tensor = model.graph.initializer[0]
    weights = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", location), ("length", str(len(weights)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    if nested:
        inner = helper.make_graph([], "inner", [], [], [tensor])
        model.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner))
        del model.graph.initializer[0]
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for place in (folder / location, folder.parent / "outside.bin"):
        with contextlib.suppress(OSError):
            place.write_bytes(weights)
    rehash(folder)


def garbage(folder: Path, data: bytes) -> None:
    (folder / "model.onnx").write_bytes(data)
    rehash(folder)


def manifest_bomb(folder: Path) -> None:
    text = '{"schema": "gcis-bundle", "schema_version": 1, "weights_dtype": "float32", "more": ['
    (folder / "manifest.json").write_text(text + "[]," * 1_300_000 + "[]]}")


def nested(folder: Path) -> None:
    text = '{"schema": "gcis-bundle", "schema_version": 2, "more": '
    (folder / "manifest.json").write_text(text + "[" * 1_000_000 + "]" * 1_000_000 + "}")


BUNDLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "parent folder": (lambda f: add(f, "../ct.nii.gz"), "outside itself"),
    "hidden parent folder": (lambda f: add(f, "a/../../ct.nii.gz"), "outside itself"),
    "absolute path": (lambda f: add(f, "/etc/passwd"), "outside itself"),
    "link out": (lambda f: link(f, "/etc/passwd"), "outside itself"),
    "links in a circle": (lambda f: link(f, "link"), "outside itself"),
    "zero byte": (lambda f: add(f, "a\0b"), "outside itself"),
    "endless name": (lambda f: add(f, "a" * 5000), "outside itself"),
    "a folder": (lambda f: ((f / "sub").mkdir(), add(f, "sub")), "lacks a file"),
    "a pipe": (lambda f: (os.mkfifo(f / "pipe"), add(f, "pipe")), "lacks a file"),
    "swapped hashes": (swap_hashes, "not the file that was exported"),
    "a later schema": (lambda f: edit(f, lambda m: m.update(schema_version=99)), "by a newer gcis"),
    "somebody else's schema": (lambda f: edit(f, lambda m: m.update(schema="monai")), "a different schema"),
    "nested JSON": (nested, "is not a bundle manifest"),
    "JSON bomb": (manifest_bomb, "does not follow the schema"),
    "huge manifest": (
        lambda f: (f / "manifest.json").write_bytes(b" " * (5 << 20)), "implausibly large",
    ),
    "not UTF-8": (
        lambda f: (f / "manifest.json").write_bytes(b'{"schema": "\xff", "schema_version": 2}'),
        "is not a bundle manifest",
    ),
    "manifest is a folder": (
        lambda f: ((f / "manifest.json").unlink(), (f / "manifest.json").mkdir()), "is not a bundle",
    ),
    "weights outside": (lambda f: external(f, "../outside.bin"), "manifest does not list"),
    "weights at an absolute path": (lambda f: external(f, "/etc/passwd"), "manifest does not list"),
    "weights inside, not listed": (lambda f: external(f, "weights.bin"), "manifest does not list"),
    "weights outside, in a branch": (lambda f: external(f, "../outside.bin", nested=True), "control flow"),
    "not ONNX": (lambda f: garbage(f, b"location" * 100), "not an ONNX file"),
    "empty graph": (lambda f: garbage(f, b""), "not an ONNX file"),
}  # fmt: skip

CHILD = f"""
import json, resource, signal, sys
from click.testing import CliRunner
from gcis_runtime.cli.run import main
resource.setrlimit(resource.RLIMIT_AS, ({ADDRESS_SPACE}, {ADDRESS_SPACE}))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
for name, image, bundle, out in json.load(open(sys.argv[1])):
    before = peak()
    signal.setitimer(signal.ITIMER_PROF, 10)
    result = CliRunner().invoke(main, [image, "--bundle", bundle, "--engine", "onnx", "-o", out])
    signal.setitimer(signal.ITIMER_PROF, 0)
    found = [name, result.exit_code, result.stdout, result.stderr, peak() - before]
    print(json.dumps(found), flush=True)
"""
GOOD = "a good image"
CASES = [*(f"image: {name}" for name in IMAGES), *(f"bundle: {name}" for name in BUNDLES)]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str, int, list[str]]]:
    """Return exit code, output, errors, growth of the peak memory and new files of every case."""
    root = tmp_path_factory.mktemp("hostile")
    good, bundle = write_ct(root / "good.nii.gz"), write_bundle(root / "good.gcis")
    jobs = [(GOOD, str(good), str(bundle), str(root / "good" / "out"))]
    for name, (make_image, _) in IMAGES.items():
        folder = root / f"image {name}"
        folder.mkdir()
        jobs.append((f"image: {name}", str(make_image(folder)), str(bundle), str(folder / "out")))
    for name, (harm, _) in BUNDLES.items():
        folder = root / f"bundle {name}"
        write_bundle(folder / "b.gcis")
        harm(folder / "b.gcis")
        jobs.append((f"bundle: {name}", str(good), str(folder / "b.gcis"), str(folder / "out")))
    (root / "jobs.json").write_text(json.dumps(jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root / "jobs.json")],
        capture_output=True, text=True, check=False, timeout=600, env=environment,
    )  # fmt: skip
    found = {}
    for line in done.stdout.splitlines():
        name, *rest = json.loads(line)
        out = Path(next(job[3] for job in jobs if job[0] == name))
        written = [str(p.relative_to(out.parent)) for p in out.rglob("*")] + [out.name] * out.exists()
        found[name] = (*rest, written)
    assert len(found) == len(jobs), f"died at {jobs[len(found)][0]}: {done.returncode} {done.stderr[-2000:]}"
    return found


def test_a_good_image_is_segmented_within_the_same_limits(outcomes):
    code, _, errors, _, written = outcomes[GOOD]
    assert code == 0, errors
    assert "out/good_seg.nii.gz" in written


@pytest.mark.parametrize("case", CASES)
def test_it_ends_in_one_clear_line_and_writes_nothing(outcomes, case):
    kind, _, name = case.partition(": ")
    expected = (IMAGES if kind == "image" else BUNDLES)[name][1]
    code, output, errors, growth, written = outcomes[case]
    assert code == 2
    assert output == ""
    lines = [line for line in errors.splitlines() if not line.startswith("test: onnx")]
    assert len(lines) == 1 and lines[0].startswith("gcis-run: error: ") and expected in lines[0], errors
    assert growth < MAX_GROWTH
    assert written == []


def test_listed_weights_beside_the_graph_are_no_danger(tmp_path):
    folder = write_bundle(tmp_path / "b.gcis")
    external(folder, "weights.bin")
    rehash(folder, "weights.bin")
    opened = open_bundle(folder)
    whole = onnx.load_from_string(opened.graph("model.onnx"))
    weights = numpy_helper.to_array(whole.graph.initializer[0])
    np.testing.assert_array_equal(weights, conv_weights()[0])
    with pytest.raises(BundleError, match=r"'weights\.bin'"):
        check_onnx((folder / "model.onnx").read_bytes(), source="model.onnx", listed={})


def test_a_word_in_a_name_is_no_reference(tmp_path):
    folder = write_bundle(tmp_path / "b.gcis")
    model = onnx.load(folder / "model.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "allocation of location"))
    model.doc_string = "location"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert check_onnx((folder / "model.onnx").read_bytes(), source="model.onnx", listed={}) == ()


def test_messages_nested_without_end_are_refused():
    data = b"location"
    for _ in range(200):  # graph in attribute in node in graph …
        for tag in (0x32, 0x2A, 0x0A):
            size, length = len(data), b""
            while size >= 0x80:
                length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
            data = bytes([tag]) + length + bytes([size]) + data
    head = b"\x08\x0a\x42\x02\x10\x12"  # IR version and operator set
    size = len(data)
    length = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
    with pytest.raises(BundleError, match="control flow"):
        check_onnx(head + b"\x3a" + length + data, source="model.onnx", listed={})
