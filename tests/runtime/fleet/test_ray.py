"""Test runs on a Ray cluster of two nodes: results, lost workers and nodes, refused clusters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import nibabel as nib
import numpy as np
import pytest

from gcis_runtime.runs.summary_document import SummaryDocument
from tests.support.bundles_and_images import write_bundle, write_ct
from tests.support.ray_cluster import HEAD, NODE, OTHER, namespace, network_namespace_problem, until

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.service,
    pytest.mark.skipif(network_namespace_problem() is not None, reason=str(network_namespace_problem())),
]

ADDRESS = f"{HEAD}:6390"


@pytest.fixture(scope="module")
def cluster():
    with namespace() as made:
        made.start(HEAD, "--head", "--port=6390", "--include-dashboard=false")
        made.start(NODE, f"--address={ADDRESS}", GCIS_TEST_WITHOUT="openvino")
        yield made


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Return a folder with a bundle and images, one of them damaged, and the results of a local run."""
    folder = tmp_path_factory.mktemp("ray")
    write_bundle(folder / "b.gcis")
    (folder / "cts").mkdir()
    for seed in range(6):
        write_ct(folder / "cts" / f"c{seed}.nii.gz", shape=(20, 18, 16), seed=seed)
    damaged = folder / "cts" / "c2.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:900])
    words = [sys.executable, "-m", "gcis_runtime.cli.run", *arguments("local")]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[0]) == (2, "5 done, 1 failed"), done.stderr
    return folder


def arguments(out, *more, images="cts/", engine="onnx"):
    return [images, "--bundle", "b.gcis", "--engine", engine, "-o", out, "--statistics", *more]


def run(cluster, work, *words, **variables):
    """Start gcis-run in the folder with the images."""
    return cluster.popen("tests.support.in_folder", work, "gcis_runtime.cli.run", *words, **variables)


def ended(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def first_case(process, folder):
    """Wait until a run has finished its first case."""
    until(lambda: process.poll() is not None or list(folder.glob("*_seg.json")), "no case is finished")
    if process.poll() is not None:
        raise AssertionError(process.communicate()[1])


def labels(folder: Path):
    return {file.name: np.asanyarray(nib.load(file).dataobj) for file in sorted(folder.glob("*_seg.nii.gz"))}


def check_equal(work, out, statuses):
    """Check that a run on the cluster left the same files as the local one."""
    local, remote = labels(work / "local"), labels(work / out)
    assert local.keys() == remote.keys()
    assert all((local[name] == remote[name]).all() for name in local)
    here, there = (
        msgspec.json.decode((work / f / "summary.json").read_bytes(), type=SummaryDocument)
        for f in ("local", out)
    )
    assert [c.case for c in here.cases] == [c.case for c in there.cases]
    assert [c.image for c in here.cases] == [c.image for c in there.cases]
    assert [c.volumes_ml for c in here.cases] == [c.volumes_ml for c in there.cases]
    assert [str(c.labels) for c in there.cases] == [str(c.labels).replace("local", out) for c in here.cases]
    assert [c.status for c in there.cases] == statuses
    assert (work / "local" / "statistics.csv").read_text() == (work / out / "statistics.csv").read_text()
    assert here.engine == there.engine.replace("1 threads", here.engine.rsplit(", ", 1)[1])
    files = [sorted(p.name for p in (work / f).rglob("*")) for f in ("local", out)]
    assert files[0] == files[1]  # nothing is half-written
    report = json.loads((work / out / "c0_seg.json").read_text())
    assert (report["image"], report["labels"]) == ("cts/c0.nii.gz", f"{out}/c0_seg.nii.gz")


DONE = ["done", "done", "failed", "done", "done", "done"]


def test_a_killed_worker_loses_no_case_and_results_equal_the_local_ones(cluster, work):
    process = run(cluster, work, *arguments("out", "--ray", "auto"))
    first_case(process, work / "out")
    assert cluster.kill("ray::Worker")
    code, out, err = ended(process)
    assert (code, out) == (2, "5 done, 1 failed\nwrote out/summary.csv\n"), err
    assert "cts/c2.nii.gz" in err and "Traceback" not in err
    check_equal(work, "out", DONE)
    code, out, err = ended(run(cluster, work, *arguments("out", "--ray", ADDRESS, "--resume")))
    assert (code, out.splitlines()[0]) == (2, "5 done by an earlier run, 1 failed"), err
    check_equal(work, "out", [status.replace("done", "skipped") for status in DONE])


def test_a_case_that_kills_its_workers_fails_and_the_others_are_done(cluster, work):
    (work / "deadly").mkdir()
    for name in ("a", "deadly", "z"):
        write_ct(work / "deadly" / f"{name}.nii.gz", shape=(20, 18, 16))
    code, out, err = ended(run(cluster, work, *arguments("dead", "--ray", ADDRESS, images="deadly/")))
    assert (code, out.splitlines()[0]) == (2, "2 done, 1 failed"), err
    assert "deadly/deadly.nii.gz: its worker ended 3 times while it ran" in err


def test_a_driver_that_is_killed_leaves_the_folder_free(cluster, work):
    process = run(cluster, work, *arguments("killed", "--ray", ADDRESS))
    first_case(process, work / "killed")
    process.kill()
    process.communicate()
    until(lambda: not cluster.processes("ray::Worker"), "workers outlive their run")
    code, out, err = ended(run(cluster, work, *arguments("killed", "--ray", ADDRESS, "--resume")))
    assert code == 2 and "done by an earlier run" in out, err
    assert labels(work / "killed").keys() == labels(work / "local").keys()


def test_engines_that_differ_between_nodes_are_refused(cluster, work):
    process = run(cluster, work, *arguments("mixed", "--ray", ADDRESS, engine="auto"))
    code, _, err = ended(process)
    assert code == 2 and "two nodes compute with different engines" in err and "--engine" in err, err
    assert "Traceback" not in err


def test_what_no_node_holds_fails_instead_of_waiting(cluster, work):
    process = run(cluster, work, *arguments("large", "--ray", ADDRESS, "--max-memory", "100G"))
    code, _, err = ended(process)
    assert (
        code == 2 and "no node of the cluster can hold a worker" in err and "100.00 GiB of memory" in err
    ), err


def test_a_cluster_must_require_the_token_of_the_user(cluster, work, tmp_path):
    words = arguments("refused", "--ray", ADDRESS)
    code, _, err = ended(run(cluster, work, *words, RAY_AUTH_MODE="disabled"))
    assert code == 2 and "lets every client" in err and "RAY_AUTH_MODE=token" in err, err
    (tmp_path / "token").write_text("f" * 64)
    code, _, err = ended(run(cluster, work, *words, RAY_AUTH_TOKEN_PATH=str(tmp_path / "token")))
    assert code == 2 and "cannot be used with this token" in err and "Traceback" not in err, err
    code, _, err = ended(run(cluster, work, *arguments("refused", "--ray", f"{HEAD}:9")))
    assert code == 2 and "no Ray cluster accepts connections" in err, err
    code, _, err = ended(run(cluster, work, *arguments("refused", "--ray", "127.0.0.1:6390")))
    assert code == 2 and "loopback" in err, err


def test_a_cluster_without_tokens_is_refused(work):
    with namespace() as unsafe:
        unsafe.start(OTHER, "--head", "--port=6391", "--include-dashboard=false", RAY_AUTH_MODE="disabled")
        code, _, err = ended(run(unsafe, work, *arguments("unsafe", "--ray", f"{OTHER}:6391")))
    assert code == 2 and "requires no token" in err and "ray get-auth-token --generate" in err, err
    assert not list((work / "unsafe").glob("*"))


def test_a_killed_node_loses_no_case(cluster, work):
    process = run(cluster, work, *arguments("node", "--ray", ADDRESS))
    first_case(process, work / "node")
    raylets = {*cluster.processes(f"--node_ip_address={NODE}")} & {*cluster.processes("raylet/raylet ")}
    assert len(raylets) == 1
    os.kill(raylets.pop(), signal.SIGKILL)
    code, out, err = ended(process)
    assert (code, out.splitlines()[0]) == (2, "5 done, 1 failed"), err
    check_equal(work, "node", DONE)
