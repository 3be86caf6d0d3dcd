"""Test every adaptor on the true file names; incomplete cases, unused files and wrong folders are named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gcis_runtime.errors import DataError
from gcis_runtime.images.files import read_grid
from gcis_train.cli.main import main
from gcis_train.data.datalist import group_cases, read_datalist
from gcis_train.data.masks import read_masks
from gcis_train.datasets import DATASETS, find_kind
from gcis_train.datasets.build import Built, Choices, build
from gcis_train.datasets.listing import Listing, grouped
from gcis_train.datasets.samples import Sample
from gcis_train.datasets.totalsegmentator import STRUCTURES, prompt_of
from tests.support.dataset_trees import IMAGE, MASK, TREES, write_tree


def _scan(kind: str, root: Path) -> dict[str, Sample]:
    return {s.name: s for s in DATASETS[kind].scan(Listing(root)).samples}


def _build(kind: str, root: Path, **choices: object) -> Built:
    return build(DATASETS[kind], root, folder=root, choices=Choices(**choices))  # type: ignore[arg-type]


def _run(*args: object) -> Result:
    return CliRunner().invoke(main, ["datalist", *map(str, args)])


def test_every_adaptor_has_a_tree() -> None:
    assert list(TREES) == list(DATASETS)


@pytest.mark.parametrize("kind", TREES)
def test_the_published_layout_becomes_rows(kind: str, tmp_path: Path) -> None:
    tree = TREES[kind]
    root = write_tree(tmp_path, tree.files)
    samples = _scan(kind, root)
    assert {name: s.part for name, s in samples.items()} == tree.cases
    built = _build(kind, root)
    assert built.report["skipped"] == [] and built.report["unused_files"] == []
    out = root / "list.json"
    assert _run(kind, root, "-o", out).exit_code == 0
    listed = read_datalist(out)  # every file exists, every row is valid
    first = next(name for name, part in tree.cases.items() if part != "test")
    image = samples[first].image.relative_to(root).as_posix()
    rows = {r.prompt: r for r in listed.training + listed.validation if r.image == image}
    assert {p: rows[p].values for p in tree.prompts} == tree.prompts
    for case in group_cases(listed.training + listed.validation, folder=root):
        assert all(mask.any() for mask in read_masks(case.targets, like=read_grid(case.image)))


@pytest.mark.parametrize("kind", TREES)
def test_incomplete_cases_and_strays_are_reported(kind: str, tmp_path: Path) -> None:
    tree = TREES[kind]
    root = write_tree(tmp_path, tree.files | {tree.stray: IMAGE})
    pattern, case = tree.lost
    for path in root.glob(pattern):
        if not path.name.startswith("image") and path != root / tree.stray:
            path.unlink()
    report = _build(kind, root).report
    assert [s["name"] for s in report["skipped"]] == [case]
    assert report["unused_files"].count(tree.stray) == 1
    assert len(_scan(kind, root)) == len([n for n in tree.cases if n.removesuffix("_contrast") != case])
    shown = _run(kind, root, "-o", tmp_path / "list.json")
    assert shown.exit_code == 0 and "skipped 1: no" in shown.output
    assert case in shown.output and tree.stray in shown.output


@pytest.mark.parametrize("kind", TREES)
def test_a_wrong_folder_is_one_line_that_says_what_was_looked_for(kind: str, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "data", {"notes.txt": "nothing", "a/scan.nii.gz": IMAGE})
    result = _run(kind, root, "-o", tmp_path / "list.json")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    title = DATASETS[kind].title
    for part in (f"does not look like {title}", "received a/, notes.txt", DATASETS[kind].layout):
        assert part in result.stderr
    assert not (tmp_path / "list.json").exists()
    missing = _run(kind, tmp_path / "none", "-o", tmp_path / "list.json")
    assert (
        missing.exit_code == 2
        and "none is not a folder; received a path that does not exist" in missing.stderr
    )


def test_a_folder_of_incomplete_cases_names_one(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"volume-3.nii": IMAGE})
    with pytest.raises(
        DataError, match=r"no complete case of LiTS; received 1 incomplete.*volume-3: no label"
    ):
        _build("lits", root)


@pytest.mark.parametrize(
    ("kind", "image", "case"),
    [
        ("hanseg", "HaN-Seg/set_1/case_02/case_02_IMG_CT.nrrd", "case_02"),
        ("lits", "Training Batch 2/volume-48.nii", "volume-48"),
        ("totalsegmentator", "s0001/ct.nii.gz", "s0001"),
        ("msd", "Task03_Liver/imagesTr/liver_1.nii.gz", "Task03_Liver/liver_1"),
    ],
)
def test_labels_without_an_image_are_reported(kind: str, image: str, case: str, tmp_path: Path) -> None:
    root = write_tree(tmp_path, TREES[kind].files)
    (root / image).unlink()
    assert _build(kind, root).report["skipped"] == [{"name": case, "reason": "no image file"}]


def test_dicom_says_how_to_convert(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"Pancreas-CT/PANCREAS_0001/1-001.dcm": "DICM"})
    with pytest.raises(DataError, match=r"does not look like TCIA Pancreas-CT.*dcm2niix"):
        _build("pancreas-ct", root)


def test_two_copies_of_a_case_are_an_error(tmp_path: Path) -> None:
    root = write_tree(tmp_path, TREES["lits"].files | {"copy/volume-0.nii": IMAGE})
    with pytest.raises(
        DataError, match=r"two files for case 0; received Training Batch 1/volume-0.nii and copy"
    ):
        _build("lits", root)


def test_linked_folders_are_read_and_loops_end(tmp_path: Path) -> None:
    real = write_tree(tmp_path / "real", TREES["lits"].files)
    root = tmp_path / "linked"
    root.mkdir()
    (root / "Training Batch 1").symlink_to(real / "Training Batch 1")
    (root / "loop").symlink_to(root)
    assert list(_scan("lits", root)) == ["volume-0"]


def test_kinds_are_found_however_they_are_spelt() -> None:
    assert find_kind("HaN-Seg") == "hanseg" and find_kind("CT_ORG") == find_kind("ctorg") == "ct-org"
    assert find_kind("TCIA Pancreas-CT") == "pancreas-ct" and find_kind("brats") is None
    assert _run("brats", "x", "-o", "y").exit_code == 2


def test_withdrawn_pancreas_series_are_left_out(tmp_path: Path) -> None:
    more = {"data/PANCREAS_0025.nii.gz": IMAGE, "data/PANCREAS_0070.nii.gz": IMAGE}
    more |= {"TCIA_pancreas_labels-02-05-2017/label0025.nii.gz": MASK}
    report = _build("pancreas-ct", write_tree(tmp_path, TREES["pancreas-ct"].files | more)).report
    assert [s["name"] for s in report["skipped"]] == ["PANCREAS_0025", "PANCREAS_0070"]
    assert sum(report["cases"].values()) == 2 and report["unused_files"] == []


def test_decathlon_labels_are_compared_with_the_index(tmp_path: Path) -> None:
    root = write_tree(tmp_path, TREES["msd"].files)
    assert len(_scan("msd", root / "Task03_Liver")) == 2  # a task's own folder serves as well
    index = root / "Task03_Liver" / "dataset.json"
    changed = json.loads(index.read_text())
    changed["labels"] = {"0": "background", "1": "cancer", "2": "liver"}
    index.write_text(json.dumps(changed))
    with pytest.raises(
        DataError, match=r"dataset.json does not have the labels of the release of Task03_Liver"
    ):
        _build("msd", root)
    index.write_text('{"labels": {}}')
    with pytest.raises(DataError, match=r"dataset.json is not a Decathlon index"):
        _build("msd", root)


def test_decathlon_mri_tasks_are_skipped(tmp_path: Path) -> None:
    root = write_tree(tmp_path, TREES["msd"].files | {"Task02_Heart/dataset.json": "{}"})
    assert [s["name"] for s in _build("msd", root).report["skipped"]] == ["Task02_Heart"]


def test_amos_mri_is_skipped(tmp_path: Path) -> None:
    more = {f"amos22/{k}Tr/amos_0507.nii.gz": c for k, c in (("images", IMAGE), ("labels", (1,)))}
    report = _build("amos", write_tree(tmp_path, TREES["amos"].files | more)).report
    assert report["skipped"] == [{"name": "amos_0507", "reason": "MRI (number above 500)"}]
    assert report["unused_files"] == []


def test_kits_releases(tmp_path: Path) -> None:
    first = {"data/kits.json": "[]", "data/case_00000/imaging.nii.gz": IMAGE}
    first["data/case_00000/segmentation.nii.gz"] = (1, 2)
    masks = _scan("kits", write_tree(tmp_path / "19", first))["case_00000"].masks
    assert [m.prompt for m in masks] == ["kidney", "kidney tumor"]
    second = {f"kits21/data/case_00000/aggregated_{k}_seg.nii.gz": (1, 2, 3) for k in ("MAJ", "OR", "AND")}
    second |= {"kits21/data/case_00000/imaging.nii.gz": IMAGE}
    second |= {"kits21/data/case_00000/segmentations/kidney_instance-1_annotation-1.nii.gz": MASK}
    root = write_tree(tmp_path / "21", second)
    masks = _scan("kits", root)["case_00000"].masks
    assert len(masks) == 3 and masks[0].files[0].name == "aggregated_MAJ_seg.nii.gz"
    assert _build("kits", root).report["unused_files"] == []


def test_updated_segrap_labels_replace_the_first_ones(tmp_path: Path) -> None:
    samples = _scan("segrap", write_tree(tmp_path, TREES["segrap"].files))
    for name in ("segrap_0000", "segrap_0000_contrast"):
        files = {m.prompt: m.files[0].parent.parent.name for m in samples[name].masks}
        assert files["left parotid gland"].endswith("Update_Labels")
        assert files["right parotid gland"] == "SegRap2023_Training_Set_120cases"
    assert samples["segrap_0000"].group == samples["segrap_0000_contrast"].group


def test_uncontoured_openkbp_structures_get_no_row(tmp_path: Path) -> None:
    built = _build("openkbp", write_tree(tmp_path, TREES["openkbp"].files))
    assert built.report["structures"] == {"brainstem": 3, "spinal cord": 3, "mandible": 3}


def test_totalsegmentator_names_read_as_words() -> None:
    assert len(STRUCTURES) == 117 + 7  # v2, and seven names that only v1 has
    prompts = [prompt_of(name) for name in STRUCTURES]
    assert len(set(prompts)) == len(prompts) and not any("_" in p for p in prompts)
    for name, prompt in {
        "lung_upper_lobe_left": "left lung upper lobe",
        "hip_right": "right hip bone",
        "portal_vein_and_splenic_vein": "portal and splenic veins",
        "vertebrae_T12": "vertebra T12",
        "rib_right_1": "right rib 1",
        "gluteus_medius_left": "left gluteus medius muscle",
    }.items():
        assert prompt_of(name) == prompt


def test_a_broken_meta_file_is_named(tmp_path: Path) -> None:
    root = write_tree(tmp_path, TREES["totalsegmentator"].files | {"meta.csv": "a,b\n1,2\n"})
    with pytest.raises(DataError, match=r"meta.csv does not list the part of each case.*image_id and split"):
        _build("totalsegmentator", root)


def test_unknown_parts_of_a_release_are_reported(tmp_path: Path) -> None:
    meta = "image_id;age;split\ns0000;1;train\ns0001;2;external\ns0002;3;val\ns0003;4\ns9999;4;other\n"
    root = write_tree(tmp_path, TREES["totalsegmentator"].files | {"meta.csv": meta})
    built = _build("totalsegmentator", root)
    assert built.report["cases"] == {"training": 3, "validation": 1, "held out": 0}
    assert [note.partition(" for ")[0] for note in built.report["notes"]] == [
        "meta.csv has the unknown part ''", "meta.csv has the unknown part 'external'"
    ]  # fmt: skip
    done = CliRunner().invoke(main, ["datalist", "totalsegmentator", str(root), "-o", str(root / "d.json")])
    assert "note: meta.csv has the unknown part 'external' for 1 cases" in done.stdout


def test_unused_files_are_named_by_folder_or_by_name(tmp_path: Path) -> None:
    assert grouped(["a/x.nii", "a/y.nii", "b/x.nii", "z.nii"]) == {"a/": 2, "b/": 1, "./": 1}
    assert grouped([f"s{n}/lobe.nii.gz" for n in range(9)]) == {"lobe.nii.gz": 9}
    files = TREES["btcv"].files | {f"labels_extra/label{n}.nii.gz": MASK for n in (1, 2)}
    root = write_tree(tmp_path, files)
    built = _build("btcv", root)
    assert built.report["set_aside"] and not set(built.report["set_aside"]) & set(
        built.report["unused_files"]
    )
    done = CliRunner().invoke(main, ["datalist", "btcv", str(root), "-o", str(root / "d.json")])
    assert "not used: 2 files (labels_extra/ 2)" in done.stdout
    aside = next(iter(built.report["set_aside"]))
    assert f"published without use for training: {aside} " in done.stdout


def test_the_guide_names_every_kind_and_its_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "how-to" / "data.md").read_text()
    assert re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE) == list(DATASETS)
    options = _run("lits", "--help").output + _run("check", "--help").output
    options += CliRunner().invoke(main, ["pretrain", "--help"]).output
    assert {o for o in re.findall(r"--[a-z][a-z-]+", text) if o not in options} == set()
    write_tree(tmp_path / "data" / "LiTS", TREES["lits"].files)
    monkeypatch.chdir(tmp_path)
    block = text.split("```bash\n")[1].split("```")[0].splitlines()
    for line in block[:2]:  # the third trains
        assert line.startswith("gcis-train datalist ")
        result = CliRunner().invoke(main, line.split()[1:])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "data" / "lits_check.png").is_file()
    assert block[2].startswith("gcis-train pretrain --datalist data/lits.json ")
