"""Test merges and splits: patients are not divided, and the same seed gives the same datalist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner, Result

from gcis_runtime.errors import DataError
from gcis_train.cli.main import main
from gcis_train.data.datalist import read_datalist
from gcis_train.data.sides import mirrored, other_side, without_side
from gcis_train.datasets import DATASETS
from gcis_train.datasets.build import Built, Choices, build
from gcis_train.datasets.merges import lesions_in_organs, sides_joined, union
from gcis_train.datasets.samples import Mask, label_map
from gcis_train.datasets.splits import fold_of, hold_out, shuffled
from tests.support.dataset_trees import IMAGE, TREES, write_tree

FILE, OTHER = Path("a.nii.gz"), Path("b.nii.gz")
PATIENTS = [f"p{n}" for n in range(20)]


def _run(*args: object) -> Result:
    return CliRunner().invoke(main, ["datalist", *map(str, args)])


def _build(kind: str, root: Path, **choices: Any) -> Built:
    return build(DATASETS[kind], root, folder=root, choices=Choices(**choices))


def _values(built: Built) -> dict[str, Any]:
    return {r.prompt: r.label_value for r in built.datalist.training}


def test_lesions_count_as_organ_and_keep_their_own_row() -> None:
    masks = label_map(FILE, {1: "kidney", 2: "tumor", 3: "cyst"}, {"tumor": "kidney", "cyst": "kidney"})
    merged = {m.prompt: m.values for m in lesions_in_organs(masks)}
    assert merged == {"kidney": (1, 2, 3), "tumor": (2,), "cyst": (3,)}
    alone = label_map(FILE, {2: "tumor"}, {"tumor": "kidney"})
    assert lesions_in_organs(alone) == alone


def test_sides_are_joined_where_both_are_labelled() -> None:
    masks = label_map(
        FILE, {2: "right kidney", 3: "left kidney", 6: "liver", 7: "left lung", 8: "left atrium"}
    )
    joined = {m.prompt: m.values for m in sides_joined(masks)}
    assert joined == {"kidney": (2, 3), "liver": (6,), "left atrium": (8,)}
    files = (Mask(prompt="left eye", files=(FILE,)), Mask(prompt="right eye", files=(OTHER,)))
    assert sides_joined(files) == (Mask(prompt="eye", files=(FILE, OTHER)),)


def test_joined_sides_keep_their_lesions() -> None:
    masks = [
        Mask(prompt=f"{side} {what}", files=(Path(f"{side}_{what}"),), lesion_of=organ and f"{side} {organ}")
        for side in ("left", "right")
        for what, organ in (("kidney", ""), ("kidney cyst", "kidney"))
    ]
    joined = {m.prompt: m for m in sides_joined(lesions_in_organs(masks))}
    assert set(joined) == {"kidney", "kidney cyst"} and joined["kidney cyst"].lesion_of == "kidney"
    assert {f.name for f in joined["kidney"].files} == {m.files[0].name for m in masks}


def test_masks_without_anything_in_common_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="differ in files and values"):
        union(Mask(prompt="a", files=(FILE,), values=(1,)), Mask(prompt="b", files=(OTHER,), values=(2,)))


def test_the_heart_has_no_mirrored_chambers() -> None:
    assert mirrored("left heart ventricle") == "left heart ventricle"
    assert other_side("left atrial appendage") is None and other_side("liver") is None
    assert other_side("posterior segment of the left eyeball") == "posterior segment of the right eyeball"
    assert without_side("posterior segment of the left eyeball") == "posterior segment of the eyeball"
    assert without_side("left heart atrium") == "left heart atrium"


def test_a_split_depends_on_seed_and_names_alone() -> None:
    order = shuffled(PATIENTS, 3)
    assert order == shuffled(reversed(PATIENTS), 3) and sorted(order) == sorted(PATIENTS)
    assert order != shuffled(PATIENTS, 4)
    assert [p for p in shuffled([*PATIENTS, "new"], 3) if p != "new"] == order
    assert shuffled(["a", "b", "c", "d", "e"], 0) == ["c", "b", "e", "d", "a"]  # the same on every machine


def test_folds_are_a_partition() -> None:
    folds = [fold_of(PATIENTS, folds=3, fold=f, seed=1) for f in range(3)]
    assert sorted(p for fold in folds for p in fold) == sorted(PATIENTS)
    assert sorted(map(len, folds)) == [6, 7, 7]


def test_a_share_is_rounded_and_not_empty() -> None:
    assert len(hold_out(PATIENTS, share=0.2, seed=0)) == 4
    assert len(hold_out(PATIENTS[:3], share=0.1, seed=0)) == 1
    assert not hold_out(PATIENTS, share=0.0, seed=0) and not hold_out(PATIENTS[:1], share=0.2, seed=0)


def test_lesions_apart_and_sides_joined(tmp_path: Path) -> None:
    root = write_tree(tmp_path, TREES["totalsegmentator"].files)
    training = _build("totalsegmentator", root, sides="joined").datalist.training
    kidney = next(r for r in training if r.prompt == "kidney")
    # Only the left cyst has a file, so cysts of both sides are unknown; the kidney with its cysts is not.
    assert kidney.label == tuple(
        f"s0000/segmentations/{n}.nii.gz" for n in ("kidney_left", "kidney_cyst_left", "kidney_right")
    )
    assert kidney.label_value == 1 and "kidney cyst" not in {r.prompt for r in training}
    apart = _build("totalsegmentator", root, lesions="apart").datalist.training
    assert next(r for r in apart if r.prompt == "left kidney").labels == (
        "s0000/segmentations/kidney_left.nii.gz",
    )
    lits = write_tree(tmp_path / "lits", TREES["lits"].files)
    assert _values(_build("lits", lits)) == {"liver": (1, 2), "liver tumor": 2}
    assert _values(_build("lits", lits, lesions="apart")) == {"liver": 1, "liver tumor": 2}


def test_published_splits_are_the_default(tmp_path: Path) -> None:
    root = write_tree(tmp_path, TREES["word"].files)
    report = _build("word", root).report
    assert report["cases"] == {"training": 2, "validation": 1, "held out": 1}
    assert report["split"] == "as published"
    own = _build("word", root, validation_share=0.34, seed=5).report
    assert own["cases"] == {"training": 2, "validation": 1, "held out": 1} and "seed 5" in own["split"]
    test = _build("word", root, test=True)
    assert test.report["cases"] == {"training": 3, "validation": 1, "held out": 0}
    assert {r.image for r in test.datalist.validation} == {"WORD-V0.1.0/imagesTs/word_0014.nii.gz"}
    lits = write_tree(tmp_path / "lits", TREES["lits"].files)
    with pytest.raises(DataError, match="has no labelled test part"):
        _build("lits", lits, test=True)


def test_both_images_of_a_patient_stay_together(tmp_path: Path) -> None:
    root = write_tree(tmp_path, TREES["segrap"].files)
    for seed in range(4):
        lists = _build("segrap", root, folds=2, fold=1, seed=seed).datalist
        sides = [{Path(r.image).parent.name for r in rows} for rows in (lists.training, lists.validation)]
        assert len(sides[0]) == len(sides[1]) == 1 and not sides[0] & sides[1]


def test_structures_without_a_voxel(tmp_path: Path) -> None:
    files = TREES["btcv"].files | {"Abdomen/RawData/Training/label/label0002.nii.gz": (1, 6)}
    root = write_tree(tmp_path, files)
    keep, drop = (_build("btcv", root, empty=e, validation_share=0.0) for e in ("keep", "drop"))
    assert len(keep.datalist.training) == 26 and len(drop.datalist.training) == 15
    empty = write_tree(tmp_path / "e", {k: v if v == "image" else (20,) for k, v in files.items()})
    with pytest.raises(DataError, match="the datalist of BTCV would be empty"):
        _build("btcv", empty, empty="drop")


def test_only_some_structures(tmp_path: Path) -> None:
    root = write_tree(tmp_path, TREES["msd"].files)
    built = _build("msd", root, prompts=("liver",), validation_share=0.0)
    assert _values(built) == {"liver": (1, 2)}  # the lesion counts although it has no row here
    assert {s["reason"] for s in built.report["skipped"]} == {"no requested structure"}
    with pytest.raises(DataError, match=r"no such structure; received livr; expected of .*liver"):
        _build("msd", root, prompts=("liver", "livr"))


def test_paths_are_relative_below_the_datalist_and_absolute_elsewhere(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "data", TREES["lits"].files)
    for out, absolute in ((tmp_path / "list.json", False), (tmp_path / "elsewhere" / "list.json", True)):
        assert _run("lits", root, "-o", out).exit_code == 0
        listed = read_datalist(out)
        assert all(Path(r.image).is_absolute() == absolute for r in listed.training)


def test_the_file_says_how_it_was_made(tmp_path: Path) -> None:
    root = write_tree(tmp_path, TREES["lits"].files)
    out = tmp_path / "list.json"
    result = _run("LiTS", root, "-o", out, "--folds", "2", "--fold", "1", "--seed", "7", "--json")
    report = json.loads(result.stdout)
    about = json.loads(out.read_text())["about"]
    assert (
        about["dataset"] == "LiTS"
        and about["choices"]["seed"] == 7
        and about["choices"]["lesions"] == "organ"
    )
    assert about["split"] == report["split"] == "fold 1 of 2, seed 7"
    again = out.read_bytes()
    _run("lits", root, "-o", out, "--folds", "2", "--fold", "1", "--seed", "7")
    assert out.read_bytes() == again


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--folds", "1"), "fold 0 of 1"),
        (("--folds", "3", "--fold", "3"), "fold 3 of 3"),
        (("--folds", "3", "--validation-share", "0.2"), "a validation share and folds"),
        (("--validation-share", "1"), "a validation share of 1"),
        (("--test", "--folds", "3"), "test part and another split"),
    ],
)
def test_impossible_splits_are_one_line(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    root = write_tree(tmp_path, TREES["lits"].files)
    result = _run("lits", root, "-o", tmp_path / "list.json", *flags)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "list.json").exists()


def test_cases_that_are_known_to_be_wrong_are_skipped_with_a_reason_unless_kept(tmp_path: Path) -> None:
    files = {
        f"Training Batch 1/{kind}-{n}.nii": content
        for n in (27, 28, 47, 48)
        for kind, content in (("volume", IMAGE), ("segmentation", (1, 2)))
    }
    root = write_tree(tmp_path, files)
    report = _build("lits", root).report
    assert [s["name"] for s in report["skipped"]] == ["volume-28", "volume-47"]
    assert "wrong voxel size" in report["skipped"][0]["reason"]
    assert sum(report["cases"].values()) == 2 and report["unused_files"] == []
    kept = _build("lits", root, keep=True).report
    assert kept["skipped"] == [] and sum(kept["cases"].values()) == 4


def _placed(tmp_path: Path, **choices: Any) -> Built:
    """Build LiTS with a label file of another header and one of another shape."""
    root = write_tree(tmp_path, dict.fromkeys(("volume-0.nii", "volume-1.nii", "volume-2.nii"), IMAGE))
    for number, (size, shift) in enumerate(((8, 0.0), (8, 40.0), (7, 0.0))):
        affine = np.eye(4)
        affine[2, 3] = shift
        nib.save(
            nib.Nifti1Image(np.ones((8, 8, size), np.uint8), affine), root / f"segmentation-{number}.nii"
        )
    return _build("lits", root, validation_share=0.0, **choices)


def test_labels_with_other_headers_are_placed_by_the_image(tmp_path: Path) -> None:
    built = _placed(tmp_path)
    assert {r.label_geometry for r in built.datalist.training} == {"image"}
    assert {r.image for r in built.datalist.training} == {"volume-0.nii", "volume-1.nii"}
    assert built.report["label_geometry"] == {
        "placed_by": "image",
        "headers_differ": [{"name": "volume-1", "mm": 40.0}],
    }
    assert built.report["skipped"] == [
        {"name": "volume-2", "reason": "segmentation-2.nii has the shape (8, 8, 7), its image (8, 8, 8)"}
    ]


def test_label_files_may_be_reversed_where_the_image_places_them(tmp_path: Path) -> None:
    assert {r.label_flip for r in _placed(tmp_path, label_flip="z").datalist.training} == {"z"}
    with pytest.raises(DataError, match="cannot be reversed"):
        _placed(tmp_path / "wrong", label_flip="q")
    tree = write_tree(tmp_path / "btcv", TREES["btcv"].files)
    with pytest.raises(DataError, match="without label_geometry 'image'"):
        _build("btcv", tree, label_flip="z")
    assert "--label-flip" in _run("pancreas-ct", "--help").stdout
    assert "--label-flip" not in _run("btcv", "--help").stdout


def test_the_summary_names_labels_with_other_headers(tmp_path: Path) -> None:
    _placed(tmp_path)
    done = _run("lits", tmp_path, "-o", tmp_path / "d.json")
    assert done.exit_code == 0, done.output
    assert "placed by the headers of the images; those of 1 label files differ (volume-1)" in done.stdout
    assert all(r.label_geometry == "image" for r in read_datalist(tmp_path / "d.json").training)
