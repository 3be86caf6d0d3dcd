"""Test that the datalist is read strictly, and that rows with the same image become one case."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gcis_runtime.errors import DataError
from gcis_train.data.datalist import Row, group_cases, prompts_of, read_datalist
from gcis_train.options.training import TrainOptions
from gcis_train.training.material import read_cases

ROW = {"image": "a.nii.gz", "label": "b.nii.gz", "prompt": "liver"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / name).touch()
    return tmp_path


def _write(folder: Path, data: Any) -> Path:
    path = folder / "datalist.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_the_published_form_is_read(folder: Path) -> None:
    rows = [ROW, {**ROW, "prompt": "spleen", "label_value": 2}]
    datalist = read_datalist(_write(folder, {"training": rows, "validation": [ROW], "name": "x"}))
    assert datalist.training[0] == Row(image="a.nii.gz", label="b.nii.gz", prompt="liver")
    assert datalist.training[1].label_value == 2
    assert len(datalist.validation) == 1


@pytest.mark.parametrize("name", ["validaton", "val", "Validation", "train", "validations"])
def test_a_misspelt_list_is_not_left_out_unseen(folder: Path, name: str) -> None:
    path = _write(folder, {"training": [ROW], name: [ROW]})
    meant = "training" if name == "train" else "validation"
    with pytest.raises(DataError, match=rf"unknown list; received '{name}'.*If {meant}"):
        read_datalist(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not in the published form"),
        ("[]", "not in the published form"),
        ({"validation": [ROW]}, "missing required field `training`"),
        (
            {"training": [{**ROW, "labelvalue": 3}]},
            r"\[0\] has an unknown field; received 'labelvalue'",
        ),
        (
            {"training": [ROW, {**ROW, "Prompt": 3}]},
            r"\[1\] has an unknown field; .*If prompt is meant",
        ),
        (
            {"training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]},
            r"\[0\] has no prompt.*--prompt",
        ),
        ({"training": [{**ROW, "label_value": "3"}]}, r"Expected `int.*label_value"),
        ({"training": [ROW, {**ROW, "prompt": " "}]}, r"training\[1\] has an empty prompt"),
        (
            {"training": [], "validation": [{**ROW, "image": "x.nii.gz"}]},
            r"validation\[0\] .*'x.nii.gz'.*relative to",
        ),
        ({"training": [{**ROW, "label_value": []}]}, r"training\[0\] .*label_value; received \(\)"),
        ({"training": [{**ROW, "label_value": 65536}]}, r"label_value; received 65536"),
        ({"training": [{**ROW, "label_value": [1, 2**63 - 1]}]}, r"label_value; received \(1, "),
        ({"training": [{**ROW, "repeat": 10**12}]}, r"repeat|Expected `int` <= 10000"),
        ({"training": [{**ROW, "label_value": [1, 0]}]}, r"label_value; received \(1, 0\)"),
        ({"training": [{**ROW, "label": []}]}, r"training\[0\] has no label file"),
        ({"training": [{**ROW, "label": ["b.nii.gz", "x.nii.gz"]}]}, r"label 'x.nii.gz'"),
        ({"training": [{**ROW, "label": "x.nii.gz"}]}, r"training\[0\] .* does not exist.*label 'x.nii.gz'"),
        (
            {"training": [{**ROW, "label_value": 0}]},
            r"training\[0\] .*label_value; received 0; expected whole numbers from 1 to 65535",
        ),
    ],
)
def test_a_bad_row_is_named(folder: Path, data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_datalist(_write(folder, data))


def test_unreadable_lists(folder: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_datalist(folder / "none.json")
    with pytest.raises(DataError, match="directory"):
        read_datalist(folder)
    (folder / "binary.json").write_bytes(b'{"training": "\xff\xfe"}')
    with pytest.raises(DataError, match="not in the published form"):
        read_datalist(folder / "binary.json")


def test_rows_of_an_image_become_one_case(folder: Path) -> None:
    rows = tuple(
        Row(image=i, label="b.nii.gz", prompt=p, label_value=v)
        for i, p, v in (("a.nii.gz", "liver", 1), ("c.nii.gz", "liver", 1), ("a.nii.gz", "spleen", 2))
    )
    cases = group_cases(rows, folder=folder)
    assert [c.name for c in cases] == ["a", "c"]
    assert [(t.prompt, t.values) for t in cases[0].targets] == [("liver", (1,)), ("spleen", (2,))]
    assert cases[0].targets[0].labels == (folder / "b.nii.gz",)
    assert prompts_of(cases) == ("liver", "spleen")


def test_the_same_structure_twice_is_two_cases_with_a_note(folder: Path) -> None:
    rows = [ROW, {**ROW, "label": "a.nii.gz"}, {**ROW, "prompt": "spleen"}]
    datalist = read_datalist(_write(folder, {"training": rows, "validation": [ROW]}))
    assert datalist.notes == ("training has 2 rows of 'liver' for a.nii.gz: each is a case of its own",)
    first, second = group_cases(datalist.training, folder=folder)
    assert (first.name, second.name) == ("a", "a (2)") and second.image_name == "a"
    assert [t.prompt for t in first.targets] == ["liver", "spleen"]
    assert [(t.prompt, t.labels) for t in second.targets] == [("liver", (folder / "a.nii.gz",))]


def test_further_keys_of_rows_are_ignored_with_a_note(folder: Path) -> None:
    rows = [{**ROW, "fold": 2, "site": None}, {**ROW, "prompt": "spleen", "fold": 1, "label2": "x"}]
    datalist = read_datalist(_write(folder, {"training": rows, "notes": "published lists have further keys"}))
    assert datalist.notes == (
        "the key 'fold' of 2 rows is ignored",
        "the key 'site' of 1 rows is ignored",
        "the key 'label2' of 1 rows is ignored",
    )
    assert datalist.training[0] == Row(**ROW)


def test_rows_of_a_single_task_need_no_prompt(folder: Path) -> None:
    bare = {"image": "a.nii.gz", "label": "b.nii.gz"}
    path = _write(folder, {"training": [bare], "validation": [bare, {**ROW, "prompt": "spleen"}]})
    datalist = read_datalist(path, prompt="liver")
    assert [r.prompt for r in (*datalist.training, *datalist.validation)] == ["liver", "liver", "spleen"]
    assert datalist.notes == ("2 rows without a prompt are rows of 'liver'",)


def test_a_structure_may_have_several_values_and_files(folder: Path) -> None:
    row = {**ROW, "label": ["b.nii.gz", "a.nii.gz"], "label_value": [1, 3]}
    rows = read_datalist(_write(folder, {"training": [row]})).training
    target = group_cases(rows, folder=folder)[0].targets[0]
    assert target.labels == (folder / "b.nii.gz", folder / "a.nii.gz") and target.values == (1, 3)
    labels = np.array([0, 1, 2, 3, 4])
    assert target.select(labels).tolist() == [False, True, False, True, False]
    one = dataclasses.replace(target, values=(4,))
    assert one.select(labels).tolist() == [False, False, False, False, True]
    assert dataclasses.replace(target, values=None).select(labels).tolist() == [False, True, True, True, True]


def test_files_that_share_a_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    images = ["s1/ct.nii.gz", "s2/ct.nii.gz", "other.nii", "x/case_1_IMG_CT.nrrd"]
    rows = tuple(Row(image=i, label="b.nii.gz", prompt="liver") for i in images)
    names = [c.name for c in group_cases(rows, folder=tmp_path)]
    assert names == ["s1/ct", "s2/ct", "other", "case_1_IMG_CT"]


def test_a_rare_case_may_count_several_times(folder: Path) -> None:
    (folder / "c.nii.gz").touch()
    rows = [ROW, {**ROW, "prompt": "tumour", "repeat": 3}, {**ROW, "image": "c.nii.gz"}]
    path = _write(folder, {"training": rows, "validation": rows})
    cases = read_cases(path, TrainOptions())
    assert [case.name for case in cases.training] == ["a", "a", "a", "c"]
    assert [case.name for case in cases.validation] == ["a", "c"]  # scored once
    with pytest.raises(DataError, match=r"training\[0\]"):
        read_datalist(_write(folder, {"training": [{**ROW, "repeat": 0}]}))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_skipped(folder: Path, encoding: str) -> None:
    path = folder / "datalist.json"
    path.write_text(json.dumps({"training": [{**ROW, "prompt": "l\xe9sion"}]}, ensure_ascii=False), encoding)
    assert read_datalist(path).training[0].prompt == "l\xe9sion"
