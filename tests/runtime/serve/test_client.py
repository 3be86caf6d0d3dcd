"""Test `gcis-run --server`: the files, the output and the exit code of a local run, without an engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles_and_images import write_bundle, write_ct
from tests.support.dicom_series import slices_of, write
from tests.support.service_process import ROOT, Server, serving

pytestmark = pytest.mark.service

TOKEN = "a-token-of-the-tests-0123456789"
NO_ENGINE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnxruntime", "openvino", "starlette", "uvicorn", "prometheus_client"):
            raise ImportError(f"{name} must not be imported")
sys.meta_path.insert(0, Refuse())
from gcis_runtime.cli.run import main
main()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a bundle, CTs, a damaged one, and a token."""
    folder = tmp_path_factory.mktemp("client")
    write_bundle(folder / "b.gcis")
    (folder / "cts").mkdir()
    for seed, name in enumerate("ab"):
        write_ct(folder / "cts" / f"{name}.nii.gz", shape=(20, 18, 16), seed=seed)
    (folder / "token.txt").write_text(TOKEN + "\n")
    (folder / "token.txt").chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    arguments = ("--bundle", data / "b.gcis", "--engine", "onnx", "--token-file", data / "token.txt")
    with serving(data / "jobs", *arguments) as found:
        yield found


def run(*words: object, remote: bool) -> subprocess.CompletedProcess[str]:
    program = ["-c", NO_ENGINE] if remote else ["-m", "gcis_runtime.cli.run"]
    return subprocess.run(
        [sys.executable, *program, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def both(
    server: Server, data: Path, tmp_path: Path, *words: object
) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
    """Run a command locally into `local`, and on the service into `remote`."""
    found = []
    for name in ("local", "remote"):
        bundle = data / "b.gcis" if name == "local" else "test"
        where = ("--engine", "onnx") if name == "local" else ("--server", server.url)
        token = () if name == "local" else ("--token-file", data / "token.txt")
        command = (*words, "--bundle", bundle, *where, *token, "-o", tmp_path / name)
        found.append(run(*command, remote=name == "remote"))
    return found[0], found[1]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


VARIES = ("seconds", "forecast", "peak_memory_bytes")


def report(data: bytes, folder: str) -> dict[str, object]:
    """Return a report without what varies from run to run."""
    found = json.loads(data.replace(f"/{folder}/".encode(), b"/OUT/"))
    return {key: value for key, value in found.items() if key not in VARIES}


def test_a_cohort_has_the_files_of_a_local_run(server: Server, data: Path, tmp_path: Path) -> None:
    options = ("--masks", "--probability", "--statistics", "--preview", "--roi", "2:,:,1:12")
    local, remote = both(server, data, tmp_path, data / "cts", *options)
    assert (local.returncode, remote.returncode) == (0, 0), remote.stderr
    assert remote.stdout == local.stdout.replace("/local/", "/remote/")
    here, there = files(tmp_path / "local"), files(tmp_path / "remote")
    assert here.keys() == there.keys() and len(here) > 12
    for name, content in here.items():
        if name.startswith("summary."):
            continue
        if name.endswith(".json"):
            assert report(there[name], "remote") == report(content, "local"), name
        else:
            assert there[name] == content, name
    summary = json.loads(there["summary.json"])
    assert (summary["counts"]["done"], summary["engine"]) == (2, json.loads(here["summary.json"])["engine"])
    assert server.request("GET", "/v1/jobs", None, {"Authorization": f"Bearer {TOKEN}"}).json["jobs"] == []
    again = run(
        data / "cts", *options, "--bundle", "test", "--server", server.url, "--token-file",
        data / "token.txt", "-o", tmp_path / "remote", "--resume", remote=True,
    )  # fmt: skip
    assert again.stdout.startswith("2 done by an earlier run"), again.stdout + again.stderr


def test_errors_are_those_of_a_local_run(server: Server, data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "good.nii.gz").write_bytes((data / "cts" / "a.nii.gz").read_bytes())
    (bad / "half.nii.gz").write_bytes((data / "cts" / "a.nii.gz").read_bytes()[:-3000])
    (bad / "junk.nii.gz").write_bytes(b"junk" * 100)
    (bad / "outside.nii.gz").write_bytes((data / "cts" / "a.nii.gz").read_bytes())
    local, remote = both(server, data, tmp_path, bad)
    assert (local.returncode, remote.returncode) == (2, 2)
    assert sorted(remote.stderr.splitlines()) == sorted(local.stderr.splitlines())
    for words in (("--prompt", "xyz"), ("--roi", "500:,:,:"), ("--restore", "published", "--roi", "1:,:,:")):
        local, remote = both(server, data, tmp_path, data / "cts" / "a.nii.gz", *words)
        assert (local.returncode, remote.returncode) == (2, 2)
        assert remote.stderr.splitlines()[-1] == local.stderr.splitlines()[-1]
        assert "Traceback" not in remote.stderr


def test_a_mask_and_true_labels_are_sent(server: Server, data: Path, tmp_path: Path) -> None:
    ct = data / "cts" / "a.nii.gz"
    first = run(ct, "--bundle", data / "b.gcis", "-o", tmp_path / "mask.nii.gz", remote=False)
    assert first.returncode == 0
    words = (ct, "--roi", tmp_path / "mask.nii.gz", "--truth", tmp_path / "mask.nii.gz")
    local, remote = both(server, data, tmp_path, *words)
    assert (local.returncode, remote.returncode) == (0, 0), remote.stderr
    here, there = (files(tmp_path / name)["a_seg.json"] for name in ("local", "remote"))
    one, two = report(here, "local"), report(there, "remote")
    assert one["structures"] == two["structures"] and one["truth"] == two["truth"]
    assert "mean" in remote.stdout


def test_a_dicom_series_comes_back_as_a_segmentation(server: Server, data: Path, tmp_path: Path) -> None:
    from gcis_runtime.images.files import read_volume

    write(slices_of(read_volume(data / "cts" / "a.nii.gz")), tmp_path / "study")
    formats = ("--format", "dicom-seg", "--format", "nii.gz", "--sr", "--statistics")
    local, remote = both(server, data, tmp_path, tmp_path / "study", *formats)
    assert (local.returncode, remote.returncode) == (0, 0), remote.stderr
    here, there = files(tmp_path / "local"), files(tmp_path / "remote")
    assert here.keys() == there.keys() and any(name.endswith(".dcm") for name in there)
    for name in ("study_seg.nii.gz", "study_seg_statistics.csv"):
        assert here[name] == there[name]


def test_a_wrong_token_and_a_wrong_address_are_one_line(server: Server, data: Path, tmp_path: Path) -> None:
    ct = data / "cts" / "a.nii.gz"
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("another-token-0123456789\n")
    wrong.chmod(0o600)
    done = run(ct, "--server", server.url, "--token-file", wrong, "-o", tmp_path / "x", remote=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the token is missing or wrong" in done.stderr
    done = run(ct, "--server", "ftp://host", "-o", tmp_path / "x", remote=True)
    assert done.returncode == 2 and "not the URL of a service" in done.stderr
    done = run(ct, "--server", server.url, "--threads", 2, "-o", tmp_path / "x", remote=True)
    assert done.returncode == 2 and "omit the options of the engine" in done.stderr


def test_a_phantom_is_scored(server: Server, data: Path, tmp_path: Path) -> None:
    words = ("--phantom", 7, "--server", server.url, "--token-file", data / "token.txt", "-o", tmp_path / "p")
    done = run(*words, remote=True)
    assert done.returncode == 0, done.stderr
    assert "Dice" in done.stdout and (tmp_path / "p" / "phantom_ct_seg.nii.gz").is_file()
