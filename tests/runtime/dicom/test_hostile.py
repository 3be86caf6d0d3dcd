"""Test that damaged and hostile files end in one error, within bounded memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from gcis_runtime.dicom.codestream import codestream_size
from gcis_runtime.dicom.study import read_dicom
from gcis_runtime.errors import ImageError
from gcis_runtime.images.dicom_content import holds_dicom, is_dicom
from gcis_runtime.images.volume import Volume
from tests.support.dicom_series import Coding, slices_of, write


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless], ids=lambda s: s.name)
def test_compressed_data_that_end_early(volume: Volume, tmp_path: Path, syntax) -> None:
    slices = slices_of(volume, coding=Coding(syntax=syntax))
    data = slices[4].PixelData
    start = data.index(b"\xfe\xff\x00\xe0", 8)  # the item of the frame, behind the offset table
    short = data[start + 8 :][: (len(data) - start) // 3 // 2 * 2]
    slices[4].PixelData = data[:start] + b"\xfe\xff\x00\xe0" + struct.pack("<I", len(short)) + short
    with pytest.raises(ImageError, match=r"at 2\.00 mm .*cannot be decoded"):
        read_dicom(write(slices, tmp_path))


def test_a_code_stream_of_another_size_is_refused_before_it_is_decoded(
    volume: Volume, tmp_path: Path
) -> None:
    slices = slices_of(volume, coding=Coding(syntax=JPEG2000Lossless))
    data = bytearray(slices[4].PixelData)
    at = data.index(b"\xff\x4f\xff\x51") + 8
    data[at : at + 8] = struct.pack(">II", 60000, 60000)
    slices[4].PixelData = bytes(data)
    with pytest.raises(
        ImageError, match="compressed data of another size; received 60000 x 60000; expected 40 x 34"
    ):
        read_dicom(write(slices, tmp_path))


def test_the_size_in_a_code_stream() -> None:
    start = b"\xff\xd8\xff\xe0\x00\x04ab"
    assert codestream_size(start + b"\xff\xc3\x00\x0b\x0c\x01\x00\x02\x00\x01\x01\x00\x00") == (512, 256)
    assert codestream_size(start + b"\xff\xff\xf7\x00\x0b\x0c\x00\x22\x00\x28\x01\x00\x00") == (40, 34)
    assert codestream_size(b"\x01\x00\x00\x00" + bytes(60)) is None
    for damaged in (b"\xff\xd8", start, start + b"abcdefghijkl", b"\xff\x4f\xff\x51\x00"):
        with pytest.raises(ValueError, match=r"code stream|marker"):
            codestream_size(damaged)


def test_a_deflated_file_that_inflates_too_far(volume: Volume, tmp_path: Path) -> None:
    slices = slices_of(volume, coding=Coding(syntax=DeflatedExplicitVRLittleEndian))
    buffer = io.BytesIO()
    slices[0].save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    end = 144 + int.from_bytes(data[140:144], "little")
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(zlib.decompress(data[end:], -zlib.MAX_WBITS) + bytes(1 << 28)) + deflater.flush()
    assert len(bomb) < 1 << 20
    (tmp_path / "bomb.dcm").write_bytes(data[:end] + bomb)
    with pytest.raises(ImageError, match=r"it inflates to more than \d"):
        read_dicom(tmp_path)
    (tmp_path / "bomb.dcm").write_bytes(data[: end + 20])
    with pytest.raises(ImageError, match=r"compressed data end early|damaged"):
        read_dicom(tmp_path)


def test_a_zip_bomb_and_an_encrypted_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(128) + b"DICM" + bytes(1 << 27))
    with pytest.raises(
        ImageError, match=r"implausible size; received 1 files of .* compressed up to \d{3,} times"
    ):
        read_dicom(tmp_path / "bomb.zip")
    data = bytearray((tmp_path / "bomb.zip").read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(bytes(data))
    with pytest.raises(ImageError, match="is encrypted"):
        read_dicom(tmp_path / "locked.zip")


@pytest.mark.parametrize(
    "method",
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2],
    ids=["stored", "deflated", "bzip2"],
)
def test_damaged_members_of_an_archive(volume: Volume, tmp_path: Path, method: int) -> None:
    folder = write(slices_of(volume), tmp_path / "s")
    with zipfile.ZipFile(tmp_path / "good.zip", "w", method) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    assert np.array_equal(read_dicom(tmp_path / "good.zip").array, volume.array)
    good = (tmp_path / "good.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "good.zip") as archive:
        second, third = archive.infolist()[1:3]
    for name, at in (("data", third.header_offset - 40), ("header", second.header_offset)):
        data = bytearray(good)
        data[at] ^= 0xFF
        (tmp_path / f"{name}.zip").write_bytes(bytes(data))
        # The member is left out as damaged, and its slice is missing.
        with pytest.raises(ImageError, match=r"lacks 1 slice|one slice|cannot be read"):
            read_dicom(tmp_path / f"{name}.zip")


@pytest.mark.parametrize("lie", [False, True], ids=["stated", "hidden"])
def test_a_member_inflates_within_bounded_memory(volume: Volume, tmp_path: Path, *, lie: bool) -> None:
    (first,) = sorted(write(slices_of(volume)[:1], tmp_path / "s").iterdir())
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.dcm", first.read_bytes() + bytes(100 << 20))
    if lie:
        data = bytearray(path.read_bytes())
        struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, 3000)
        path.write_bytes(bytes(data))
    tracemalloc.start()
    try:
        assert holds_dicom(path)
        with pytest.raises(ImageError):
            read_dicom(path)
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
    finally:
        tracemalloc.stop()


def test_a_huge_directory_of_an_archive_is_not_read(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", b"")
    data = stream.getvalue()
    start, end = data.rindex(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    entries = data[start:end] * (1 + (33 << 20) // (end - start))
    tail = bytearray(data[end:])
    struct.pack_into("<I", tail, 12, len(entries))
    (tmp_path / "a.zip").write_bytes(data[:start] + entries + tail)
    assert not holds_dicom(tmp_path / "a.zip")
    with pytest.raises(ImageError, match="cannot be read; received its directory is too large"):
        read_dicom(tmp_path / "a.zip")


def test_methods_that_cannot_be_limited_are_not_read(volume: Volume, tmp_path: Path) -> None:
    folder = write(slices_of(volume), tmp_path / "s")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    with pytest.raises(ImageError, match="compressed by a method that is not supported"):
        read_dicom(tmp_path / "a.zip")


def test_a_size_that_no_scanner_writes(volume: Volume, tmp_path: Path) -> None:
    slices = slices_of(volume, Rows=65000, Columns=65000)
    for ds in slices:
        ds.Rows = ds.Columns = 65000
    with pytest.raises(ImageError, match="implausible size; received 65000 x 65000 x 1"):
        read_dicom(write(slices, tmp_path))


def test_files_that_only_look_like_dicom(tmp_path: Path) -> None:
    assert not is_dicom(b"") and not is_dicom(b"\x08\0") and not is_dicom(b"PK\3\4" + bytes(128))
    assert is_dicom(b"\x08\0\x05\0CS\x0a\0ISO_IR 100") and is_dicom(bytes(128) + b"DICM")
    assert is_dicom(b"\x08\0\x16\0\x1a\0\0\0" + b"1.2.840.10008.5.1.4.1.1.2\0")  # implicit, without preamble
    (tmp_path / "x.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 200)
    assert holds_dicom(tmp_path)
    with pytest.raises(ImageError, match="has no CT image; received 1 file left out"):
        read_dicom(tmp_path)


@pytest.mark.slow
def test_mutated_files_end_in_an_image_or_one_error(volume: Volume, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small = Volume(array=volume.array[..., :2].copy(), affine=volume.affine)
    folder = write(slices_of(small), tmp_path)
    file = sorted(folder.iterdir())[0]
    good = file.read_bytes()
    refused = 0
    for _ in range(2000):
        data = bytearray(good)
        for at in rng.integers(0, 2200, rng.integers(1, 6)):
            data[at] = rng.integers(256)
        file.write_bytes(bytes(data[: rng.integers(100, len(data))] if rng.random() < 0.2 else data))
        try:
            read_dicom(folder)
        except ImageError:
            refused += 1
    assert 100 < refused < 2000
