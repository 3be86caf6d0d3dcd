"""The README's commands run as written, at toy size: later flags only shrink the work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from doc_helpers import commands, run_command, without_clip, write_air, write_case, write_published

README = (Path(__file__).parents[1] / "README.md").read_text()
SMALLER = {
    "gcis-train pretrain": "--feature-size 12 --roi 64 --spacing 8 --max-epochs 1 --pathways 2 "
    "--windows-per-case 1 --clip-weights random --validate-every 1",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README's commands name, and the datalist that it prints."""
    folder = tmp_path_factory.mktemp("readme")
    data = folder / "data"
    data.mkdir()
    for seed, name in enumerate("ab"):
        write_case(data, name, seed)
    (data / "datalist.json").write_text(re.findall(r"```json\n(.*?)```", README, re.DOTALL)[0])
    write_air(folder / "ct.nii.gz")
    write_published(folder / "params.pth", case="small", kind="single")
    return folder


def test_every_command_of_the_readme_runs(workplace: Path) -> None:
    """Published weights come last and go their way without CLIP: there it cannot even be imported."""
    before, published, after = README.partition("\n## Published weights\n")
    parts = [(commands(before), {}), (commands(published + after), without_clip(workplace))]
    assert [len(lines) >= least for (lines, _), least in zip(parts, (8, 3), strict=True)] == [True, True]
    for lines, environment in parts:
        for words in lines:
            extra = next((flags for start, flags in SMALLER.items() if " ".join(words).startswith(start)), "")
            environment |= {"GCIS_HOME": str(workplace / "home"), "OMP_NUM_THREADS": "2"}
            run_command([*words, *shlex.split(extra)], workplace, environment)
    assert (workplace / "results" / "b_ct_seg.nii.gz").is_file()
    assert (workplace / "results" / "b_ct_seg.png").is_file()
    assert (workplace / "results" / "evaluation" / "summary.json").is_file()
    assert (workplace / "ct_seg.nii.gz").is_file()


def test_the_python_example_of_the_readme_runs(workplace: Path) -> None:
    if not (workplace / "mine.gcis").is_dir():
        pytest.fail("the commands of the README made no bundle")
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workplace, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mandible" in done.stdout
    assert (workplace / "b_seg.nii.gz").is_file()
