"""Test images from folders, patterns and lists; invalid arguments are refused."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from gcis_runtime.errors import ImageError, OutputError
from gcis_runtime.runs.inputs import Source, find_images, is_collection
from gcis_runtime.runs.outputs import plan_jobs


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(sources):
    return [source.name for source in sources]


def test_a_folder_gives_its_images_and_no_results(tmp_path):
    make(
        tmp_path,
        "b.nii.gz",
        "a.nrrd",
        "c.MHA",
        "a_seg.nii.gz",
        "b_seg.json",
        ".b.nii.gz.x.part",
        ".h.nii",
        "d/e.nii",
    )
    assert names(find_images([tmp_path])) == ["a", "b", "c"]
    assert names(find_images([tmp_path / "*.nii.gz"])) == ["b"]
    assert names(find_images([tmp_path / "**" / "*.nii"])) == ["e"]
    assert names(find_images([tmp_path / "a_seg.nii.gz"])) == ["a_seg"]  # named: meant
    assert names(find_images([tmp_path / "none.nii.gz", tmp_path])) == ["none", "a", "b", "c"]
    assert [is_collection(tmp_path / n) for n in ("", "*.nii", "x.CSV", "b.nii.gz", "none.nii")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_masks_and_probabilities_of_earlier_runs_are_no_images(tmp_path):
    make(tmp_path, "a/ct.nii.gz", "a/ct_seg_masks/bone.nii.gz", "a/ct_seg_probability/bone.nii.gz")
    assert [s.image for s in find_images([tmp_path / "**" / "*.nii.gz"])] == [tmp_path / "a" / "ct.nii.gz"]
    with pytest.raises(ImageError, match="contains no image"):
        find_images([tmp_path / "a" / "ct_seg_masks"])


def test_a_slash_makes_a_folder_of_any_name(tmp_path):
    make(tmp_path, "ct.nii.gz", "other_ct.nii.gz")
    source = Source(image=tmp_path / "ct.nii.gz", name="ct")
    assert (
        plan_jobs([source], f"{tmp_path}/new.nii.gz/")[0].labels == tmp_path / "new.nii.gz" / "ct_seg.nii.gz"
    )
    with pytest.raises(OutputError, match="cannot be written; received Not a directory"):
        plan_jobs([source], f"{tmp_path}/other_ct.nii.gz/")


def test_a_link_to_nothing_is_an_image_that_will_fail(tmp_path):
    """git-annex and DataLad keep files that were not fetched as broken links; omission would hide cases."""
    make(tmp_path, "a.nii.gz")
    (tmp_path / "b.nii.gz").symlink_to("nowhere")
    (tmp_path / "c.nii.gz").symlink_to(".")
    assert names(find_images([tmp_path])) == names(find_images([tmp_path / "*.gz"])) == ["a", "b"]


def test_a_file_with_brackets_in_its_name_is_a_file(tmp_path):
    make(tmp_path, "ct[1].nii.gz")
    assert names(find_images([tmp_path / "ct[1].nii.gz"])) == ["ct[1]"]
    assert not is_collection(tmp_path / "ct[1].nii.gz")


def test_nothing_found_is_an_error(tmp_path):
    make(tmp_path, "dicom/1.dcm")
    with pytest.raises(
        ImageError,
        match=r"dicom contains no image; expected files that end in \.nii.*DICOM files are recog",
    ):
        find_images([tmp_path / "dicom"])
    with pytest.raises(ImageError, match="no image matches"):
        find_images([tmp_path / "*.nii"])


def test_a_list_names_images_relative_to_itself(tmp_path):
    text = "\ufeffpatient,image,name\n1,cts/a.nii.gz,\n2,/far/b.nii.gz,second\n"
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    assert find_images([tmp_path / "list.csv"]) == (
        Source(image=tmp_path / "cts" / "a.nii.gz", name="a"),
        Source(image=Path("/far/b.nii.gz"), name="second"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'image'; received an empty file"),
        ("a.nii.gz\nb.nii.gz\n", "has no column 'image'; received a.nii.gz"),
        ("image\n", "lists no image"),
        ("image,name\n ,x\n", "no image in row 1"),
        ("image,name\na.nii,../x\n", "name in row 1 that is not a file name; received '../x'"),
        ('image\n"a.nii\n', "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_understood(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ImageError, match=message):
        find_images([tmp_path / "list.csv"])
    with pytest.raises(ImageError, match="cannot be read"):
        find_images([tmp_path / "none.csv"])


def test_names_that_collide_are_refused(tmp_path):
    make(tmp_path, "a/ct.nii.gz", "b/ct.nii.gz", "a/ct.nrrd")
    for one, two in (("a/ct.nii.gz", "b/ct.nii.gz"), ("a/ct.nii.gz", "a/ct.nrrd")):
        with pytest.raises(OutputError, match=r"have the same output.*names in a list"):
            plan_jobs(find_images([tmp_path / one, tmp_path / two]), str(tmp_path / "out"))
    (tmp_path / "l.csv").write_text("image,name\na/ct.nii.gz,a\nb/ct.nii.gz,b\n")
    jobs = plan_jobs(find_images([tmp_path / "l.csv"]), str(tmp_path / "out"))
    assert [job.labels.name for job in jobs] == ["a_seg.nii.gz", "b_seg.nii.gz"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a\udcff", "a\0b"])
def test_names_that_no_report_can_hold_are_refused(tmp_path, name):
    for image, out in ((f"{name}.nii.gz", "out/"), ("a.nii.gz", f"{name}.nii")):
        source = Source(image=tmp_path / image, name="a")
        with pytest.raises(OutputError, match=r"not UTF-8, or holds a zero byte; received .*\\"):
            plan_jobs([source], str(tmp_path / out))


def test_label_maps_have_the_format_of_their_image_or_the_one_asked_for(tmp_path):
    make(tmp_path, "a.nii", "b.nrrd", "c.mhd", "d.mha")
    jobs = plan_jobs(find_images([tmp_path]), str(tmp_path / "out"))
    assert [j.labels.name for j in jobs] == ["a_seg.nii.gz", "b_seg.nrrd", "c_seg.mha", "d_seg.mha"]
    jobs = plan_jobs(find_images([tmp_path]), str(tmp_path / "out"), suffix=".nii")
    assert [j.labels.name for j in jobs] == ["a_seg.nii", "b_seg.nii", "c_seg.nii", "d_seg.nii"]
    one = plan_jobs(find_images([tmp_path / "a.nii"]), str(tmp_path / "x.NRRD"))[0]
    assert (one.labels.name, one.report.name) == ("x.NRRD", "x.json")


ENCODINGS = [
    *((encoding, b"") for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")),
    ("utf-16-le", codecs.BOM_UTF16_LE),
    ("utf-16-be", codecs.BOM_UTF16_BE),
]
"""Encodings with the byte order mark that precedes the text."""


@pytest.mark.parametrize("first", ["", "sep={}\r\n"], ids=["table", "sep"])
@pytest.mark.parametrize(("encoding", "mark"), ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_lists_of_spreadsheets_are_read(tmp_path, separator, encoding, mark, first):
    """With and without a byte order mark, and with the line `sep=;`."""
    lines = [
        ["Patient", " Image ", "NAME"],
        ["", "", ""],
        ["1", "cts/ä.nii.gz", ""],
        ["2", "b.nii.gz", "second"],
    ]
    text = first.format(separator) + "\r\n".join(separator.join(line) for line in lines) + "\r\n\r\n"
    (tmp_path / "list.csv").write_bytes(mark + text.encode(encoding))
    assert find_images([tmp_path / "list.csv"]) == (
        Source(image=tmp_path / "cts" / "ä.nii.gz", name="ä"),
        Source(image=tmp_path / "b.nii.gz", name="second"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ct|image\n1|a.nii",
            r"no column 'image'; received ct\|image \(separated by commas\); expected .*tabs",
        ),
        ("ct;path\n1;a.nii", r"received ct, path \(separated by semicolons\)"),
        ("image;IMAGE\na;b", "two columns 'image'"),
        ("\n\n", "an empty file"),
    ],
)
def test_a_list_of_another_kind_names_its_separator(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ImageError, match=message):
        find_images([tmp_path / "list.csv"])
