"""Test the how-to documents: every option exists, and commands that need no GPU run on a toy network."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import nibabel as nib
import pytest
from click.testing import CliRunner

from tests.support.documents import (
    HOWTO,
    PROGRAMS,
    commands,
    run_command,
    without_clip,
    write_air,
    write_case,
    write_published,
)

EXPORT = (HOWTO / "export.md").read_text()
DEBUG = (HOWTO / "debug_accuracy.md").read_text()
RUN = (HOWTO / "run.md").read_text()
CLUSTER = (HOWTO / "cluster.md").read_text()


def lines() -> list[list[str]]:
    """Return the commands of this project that the documents show, whether or not a test runs them."""
    texts = [path.read_text() for path in sorted(HOWTO.glob("*.md"))]
    found = [words for text in texts for kind in ("bash", "console") for words in commands(text, kind)]
    return [words for words in found if words[0] in PROGRAMS]


@pytest.mark.parametrize("words", lines(), ids=" ".join)
def test_the_options_of_every_command_exist(words: list[str]) -> None:
    command: click.Command = import_module(PROGRAMS[words[0]]).main
    arguments = words[1:]
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), arguments[0])
        assert found is not None, f"no command {arguments[0]}"
        command, arguments = found, arguments[1:]
    command.make_context(words[0], list(arguments))


def test_an_option_that_does_not_exist_is_seen() -> None:
    command: click.Command = import_module("gcis_export.cli").main
    with pytest.raises(click.UsageError, match="--no-such-option"):
        command.make_context("gcis-export", ["--checkpoint", "c", "--no-such-option"])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the commands name: random weights, phantoms, a random CLIP."""
    from safetensors.torch import save_file
    from torch import manual_seed, randn

    from gcis_train.text.tower import TextEncoder
    from gcis_train.weights.checkpoint import prompt_table
    from tests.support.export_cases import TEXT_DIM, write_checkpoint

    folder = tmp_path_factory.mktemp("howto")
    manual_seed(0)  # weights that hold INT8's limits: many random ones do not
    embeddings = randn(2, TEXT_DIM)
    write_checkpoint(folder / "runs" / "mine", prompts=prompt_table(("mandible", "spinal cord"), embeddings))
    (folder / "data").mkdir()
    for seed, name in enumerate("ab"):
        write_case(folder / "data", name, seed)
    write_air(folder / "ct.nii.gz")
    write_published(folder / "params.pth", case="small", kind="single")
    write_published(folder / "routed.pt", case="two_pathways", kind="routed")
    tower = TextEncoder("ViT-B-32-quickgelu", "random", seed=4)._tower
    save_file({n: t.half() for n, t in tower.state_dict().items()}, folder / "laion400m_e32.safetensors")
    return folder


@pytest.mark.slow
def test_every_command_of_the_export_document_runs(workplace: Path) -> None:
    """Only one command names CLIP weights; the others must not need CLIP."""
    common = {"GCIS_HOME": str(workplace / "home"), "OMP_NUM_THREADS": "2"}
    for words in commands(EXPORT):
        environment = {} if "--clip-weights" in words else without_clip(workplace)
        run_command(words, workplace, environment | common)
    for made in (
        "small.gcis", "two.gcis", "int8.gcis/model.int8.onnx", "models/mandible/1/model.onnx", "by_hand.gcis",
        "by_prompt.gcis",
    ):  # fmt: skip
        assert (workplace / made).exists(), made
    assert (workplace / "monai/mandible/configs/inference.json").is_file()
    assert (workplace / "ct_seg.nii.gz").is_file() and (workplace / "results/b_ct_seg.nii.gz").is_file()


@pytest.mark.slow
def test_the_python_of_the_debug_document_runs(workplace: Path) -> None:
    if not (workplace / "mandible.gcis").is_dir():
        words = next(words for words in commands(EXPORT) if words[-1] == "mandible.gcis")
        run_command(words, workplace, {"OMP_NUM_THREADS": "2"})
    code = re.findall(r"```python\n(.*?)```", DEBUG, re.DOTALL)[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workplace, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" ok") == 3, done.stdout


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the commands of run.md name: central parts of coarse phantoms."""
    import SimpleITK

    from gcis_runtime.demo.phantom import make_phantom

    folder = tmp_path_factory.mktemp("clinic")
    (folder / "cts").mkdir()
    for seed, name in enumerate(("ct", "cts/one_ct", "cts/two_ct")):
        phantom = make_phantom(seed, spacing=(8.0, 8.0, 8.0))
        middle = tuple(slice(n // 2 - 8, n // 2 + 8) for n in phantom.ct.shape)
        nib.save(nib.Nifti1Image(phantom.ct[middle], phantom.affine), folder / f"{name}.nii.gz")
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(folder / "ct.nii.gz")), str(folder / "scan.nrrd"))
    (folder / "list.csv").write_text("patient,image,name\n7,cts/one_ct.nii.gz,seven\n")
    return folder


@pytest.mark.slow
def test_every_command_of_the_run_document_runs(clinic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clinic)
    run: click.Command = import_module("gcis_runtime.cli.run").main
    for words in commands(RUN):
        done = CliRunner().invoke(run, words[1:])
        assert done.exit_code == 0, f"{words}\n{done.output}"
        if "--resume" in words:
            assert "2 done by an earlier run" in done.stdout
    for made in (
        "ct_seg.nii.gz", "results/jaw.json", "out/one_ct_seg.nii.gz", "out/seven_seg.nii.gz",
        "out/summary.csv", "numbers/statistics.csv", "numbers/two_ct_seg.png", "scan_seg.nrrd",
        "each/ct_seg_masks/spinal-cord.nii.gz", "each/ct_seg_probability/mandible.nii.gz",
        "results/ct_seg.mha", "mha/two_ct_seg.mha",
    ):  # fmt: skip
        assert (clinic / made).is_file(), made
    code = re.findall(r"```python\n(.*?)```", RUN, re.DOTALL)[0]
    exec(compile(code, "run.md", "exec"), {})
    assert (clinic / "by_hand_probability" / "esophagus.nii.gz").is_file()


def test_the_shards_of_the_cluster_document_run_and_merge(
    clinic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clinic)
    ran = commands(CLUSTER)
    for words in ran:
        done = CliRunner().invoke(import_module(PROGRAMS[words[0]]).main, words[1:])
        assert done.exit_code == 0, f"{words}\n{done.output}"
    assert len(ran) == 3 and done.stdout == "2 done\nwrote out/summary.csv\n"
