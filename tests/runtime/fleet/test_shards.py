"""Test runs in parts: which images each part has, locks, and summaries that merge to that of one run."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import msgspec
import pytest
from click.testing import CliRunner

from gcis_runtime.cli import bundle as bundle_cli
from gcis_runtime.cli import run as run_cli
from gcis_runtime.errors import OutputError
from gcis_runtime.images.files import read_volume
from gcis_runtime.runs.shard import Shard
from gcis_runtime.runs.summary_document import SummaryDocument
from gcis_runtime.system.folder_lock import folder_lock
from tests.support.bundles_and_images import write_ct
from tests.support.dicom_series import slices_of, write

pytestmark = pytest.mark.usefixtures("own_home")


@pytest.fixture
def cts(tmp_path):
    folder = tmp_path / "cts"
    folder.mkdir()
    for seed in range(5):
        write_ct(folder / f"{'=' if seed == 3 else ''}c{seed}.nii.gz", shape=(20, 18, 16), seed=seed)
    (folder / "c1.nii.gz").write_bytes((folder / "c1.nii.gz").read_bytes()[:900])  # a case that fails
    return folder


@pytest.fixture
def run(tmp_path, make_bundle, cts):
    bundle = make_bundle()

    def invoke(*arguments, images=cts, out="out"):
        words = [images, "--bundle", bundle, "--engine", "onnx", "-o", tmp_path / out, *arguments]
        return CliRunner().invoke(run_cli.main, [str(word) for word in words])

    return invoke


def merge(*paths):
    return CliRunner().invoke(bundle_cli.main, ["merge-summaries", *map(str, paths)])


def timeless(folder: Path) -> tuple[SummaryDocument, list[dict[str, str]], str]:
    """Return the three files of a summary without times, memory and the machine's load."""
    document = msgspec.json.decode((folder / "summary.json").read_bytes(), type=SummaryDocument)
    cases = [
        msgspec.structs.replace(c, seconds={} if isinstance(c.seconds, dict) else c.seconds)
        for c in document.cases
    ]
    document = msgspec.structs.replace(document, cases=cases, started="", updated="", peak_memory_bytes=0)
    with (folder / "summary.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if not k.endswith("_s")} for row in csv.DictReader(file)]
    return document, rows, (folder / "statistics.csv").read_text()


@pytest.mark.parametrize(("items", "count"), [(0, 3), (1, 1), (5, 2), (5, 7), (100, 8)])
def test_shards_are_disjoint_complete_and_balanced(items, count):
    parts = [Shard(number=n, count=count).of(range(items)) for n in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == list(range(items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts[0] == Shard.parse(f"1/{count}").of(range(items))  # the same in every process


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "1", "1/4/2", "-1/4", "a/b", "1 /4", "1/9999999"])
def test_other_texts_are_refused(text):
    with pytest.raises(OutputError, match="not a shard"):
        Shard.parse(text)


def test_merged_summaries_equal_that_of_one_run(run, tmp_path):
    out = tmp_path / "out"
    whole = run("--statistics")
    assert whole.exit_code == 2 and "4 done" in whole.output
    expected = timeless(out)
    shutil.rmtree(out)
    codes = [run("--statistics", "--shard", f"{n}/3").exit_code for n in (3, 1, 2)]
    assert codes == [2, 0, 0]  # the damaged image is the third one
    assert not (out / "summary.csv").exists()
    done = merge(out)
    assert (done.exit_code, done.output) == (2, f"{whole.output.splitlines()[-2]}\nwrote {out}/summary.csv\n")
    assert timeless(out) == expected
    assert run("--statistics", "--resume").exit_code == 2  # the whole run continues what the shards did
    cases = json.loads((out / "summary.json").read_text())["cases"]
    assert [case["status"] for case in cases] == ["skipped", "skipped", "failed", "skipped", "skipped"]


def test_dicom_series_and_pages_merge_as_well(run, cts, tmp_path):
    study = write(slices_of(read_volume(cts / "c0.nii.gz")), tmp_path / "study")
    out, options = tmp_path / "out", (study, "--statistics", "--report-html")
    for image in (*cts.glob("*c[123]*"), cts / "c0.nii.gz"):
        image.unlink()
    assert run(*options).exit_code == 0
    expected, whole = timeless(out), (out / "summary.html").read_text()
    links = re.findall(r'href="(\./[^"]+)"', whole)
    shutil.rmtree(out)
    assert [run(*options, "--shard", f"{n}/2").exit_code for n in (1, 2)] == [0, 0]
    assert merge(out).exit_code == 0
    assert timeless(out) == expected
    (uids,) = {(row["study_uid"], row["series_uid"]) for row in expected[1]} - {("", "")}
    statistics = list(csv.DictReader(expected[2].splitlines()))
    assert {(row["study_uid"], row["series_uid"]) for row in statistics} == {uids, ("", "")}
    pages = [(out / f"summary.shard-{n}-of-2.html").read_text() for n in (1, 2)]
    assert sorted(links) == sorted(link for page in pages for link in re.findall(r'href="(\./[^"]+)"', page))
    assert len(links) == 2 and all((out / link).is_file() for link in links)
    merged = (out / "summary.html").read_text()
    assert re.findall(r'href="(\./[^"]+)"', merged) == links
    assert merged.count("data:image/png") == whole.count("data:image/png")


def test_the_page_of_moved_outputs_shows_their_values(run, tmp_path):
    assert [run("--report-html", "--shard", f"{n}/2").exit_code for n in (1, 2)] == [2, 0]
    (tmp_path / "out").rename(tmp_path / "moved")
    assert merge(tmp_path / "moved").exit_code == 2
    page = (tmp_path / "moved" / "summary.html").read_text()
    links = re.findall(r'href="(\./[^"]+)"', page)
    assert len(links) == 4 and all((tmp_path / "moved" / unquote(link)).is_file() for link in links)
    (tmp_path / "moved" / "summary.html").unlink()
    (tmp_path / "moved" / "summary.shard-1-of-2.html").unlink()
    assert merge(tmp_path / "moved").exit_code == 2
    assert not (tmp_path / "moved" / "summary.html").exists(), "one shard wrote no page"


def test_files_of_the_shards_may_be_passed_and_json_is_printed(run, tmp_path):
    for number in (1, 2):
        run("--shard", f"{number}/2")
    files = [tmp_path / "out" / f"summary.shard-{n}-of-2.json" for n in (2, 1)]
    done = merge(*files, "--json")
    assert json.loads(done.stdout) == {
        "counts": {"done": 4, "skipped": 0, "failed": 1, "waiting": 0},
        "summary": str(tmp_path / "out" / "summary.csv"),
    }
    assert not (tmp_path / "out" / "statistics.csv").exists()


def test_a_shard_without_images_is_a_shard(run, tmp_path, cts):
    for image in sorted(cts.iterdir())[1:]:
        image.unlink()
    assert [run("--shard", f"{n}/2").exit_code for n in (1, 2)] == [0, 0]
    done = merge(tmp_path / "out")
    assert (done.exit_code, done.output.splitlines()[0]) == (0, "1 done")


def test_what_cannot_be_merged_is_refused(run, tmp_path, cts):
    out = tmp_path / "out"
    assert run("--shard", "2/2").exit_code == 0
    for words, text in (
        (
            [out],
            "1 shard of 2 wrote no summary; received shards 2; expected also 1. Run gcis-run --shard 1/2",
        ),
        ([tmp_path], "has no summary of a shard"),
        ([out / "nothing.json"], "does not exist"),
        ([cts / "c0.nii.gz"], "is not the summary of a shard"),
        ([out / "summary.shard-2-of-2.json"] * 2, "1 shard of 2 wrote no summary"),
    ):
        done = merge(*words)
        assert done.exit_code == 2 and text in done.output, done.output
    write_ct(cts / "later.nii.gz", shape=(20, 18, 16))
    run("--shard", "1/2")
    done = merge(out)
    assert done.exit_code == 2
    assert "are of runs over different images; received 6 images" in done.output
    assert not (out / "summary.csv").exists()
    shutil.copy(out / "summary.shard-2-of-2.json", out / "copy.json")
    done = merge(out / "summary.shard-2-of-2.json", out / "copy.json")
    assert "shard 2/2 is there twice" in done.output


def test_statistics_of_an_earlier_run_are_refused(run, tmp_path, cts):
    (cts / "c1.nii.gz").unlink()
    for number in (1, 2):
        assert run("--shard", f"{number}/2", "--statistics").exit_code == 0
    assert merge(tmp_path / "out").exit_code == 0
    write_ct(cts / "c4.nii.gz", shape=(20, 18, 16), seed=9)
    assert run("--shard", "2/2").exit_code == 0  # without --statistics, whose table stays
    done = merge(tmp_path / "out")
    assert done.exit_code == 2 and "the statistics of c4 are not those of its summary" in done.output
    table = tmp_path / "out" / "statistics.shard-2-of-2.csv"
    table.write_text("case,structure\n\nc4,liver\n")
    done = merge(tmp_path / "out")
    assert done.exit_code == 2 and "cannot be read; received columns that are not" in done.output
    table.unlink()
    assert merge(tmp_path / "out").exit_code == 0


def test_parts_of_one_run_share_a_folder_and_other_runs_do_not(tmp_path):
    refused = "in use by another process of gCIS"
    two, other = Shard(number=2, count=4), Shard(number=1, count=3)
    with folder_lock(tmp_path, part=Shard(number=1, count=4)), folder_lock(tmp_path, part=two):
        for part in (two, other, None):
            with pytest.raises(OutputError, match=refused), folder_lock(tmp_path, part=part):
                pass
    with folder_lock(tmp_path), pytest.raises(OutputError, match=refused), folder_lock(tmp_path, part=two):
        pass
    assert not list(tmp_path.iterdir())
    (tmp_path / ".gcis-run.shard-1-of-3.lock").write_text("process 1 on a machine\n")  # of a killed run
    with folder_lock(tmp_path):
        pass


def test_the_tables_of_shards_are_not_images(run, tmp_path):
    run("--shard", "1/2", "--statistics")
    done = run(images=tmp_path / "out" / "summary.shard-1-of-2.csv")
    assert done.exit_code == 2 and "would be replaced by the summary" in done.output


def test_a_shard_needs_a_folder(run, cts, tmp_path):
    done = run("--shard", "1/2", images=cts / "c0.nii.gz", out="label.nii.gz")
    assert done.exit_code == 2 and "--shard need -o FOLDER" in done.output
