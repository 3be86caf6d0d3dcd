"""Test that no command contacts a host that the user did not name, and that nameless users can run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gcis_runtime.dependencies import NO_REPORTS, set_defaults

BIN = Path(sys.executable).parent
TRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg")
NAMELESS = ("unshare", "--user", "--map-user=12345", "--map-group=12345")
TAKEN = {*NO_REPORTS, "CI", "GCIS_HOME", "HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME"}
PLAIN = {name: value for name, value in os.environ.items() if name not in TAKEN}


def _works(*command: str) -> bool:
    """Return whether a tool can be used on this machine."""
    return (
        shutil.which(command[0]) is not None
        and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    )


needs_strace = pytest.mark.skipif(not _works(*TRACE), reason="strace is missing or cannot trace here")
needs_unshare = pytest.mark.skipif(not _works(*NAMELESS), reason="there are no user namespaces here")


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command[0], *command[1:]], env=PLAIN | environment, capture_output=True, text=True, check=False
    )


def _contacted(folder: Path, *command: str) -> list[str]:
    """Run a command of gCIS in a new home, and return its system calls that address another host."""
    home, log = folder / "home", folder / "trace"
    home.mkdir(exist_ok=True)
    done = _run([*TRACE, "-o", str(log), str(BIN / command[0]), *command[1:]], {"HOME": str(home)})
    assert done.returncode == 0, done.stderr
    return [line for line in log.read_text(errors="replace").splitlines() if "sa_family=AF_INET" in line]


@needs_strace
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["doctor"], id="doctor"),
        pytest.param(["list"], id="list"),
        pytest.param(["verify", "demo", "--run"], id="verify", marks=pytest.mark.slow),
    ],
)
def test_bundle_commands_contact_no_host(tmp_path: Path, command: list[str]) -> None:
    assert _contacted(tmp_path, "gcis-bundle", *command) == []
    assert [*(tmp_path / "home").rglob("*telemetry*"), *(tmp_path / "home").rglob("Microsoft*")] == []


@pytest.mark.slow
@needs_strace
def test_training_export_and_runs_contact_no_host(tmp_path: Path) -> None:
    data, run, bundle = tmp_path / "data", tmp_path / "run", tmp_path / "out.gcis"
    phantoms = ["phantoms", "-o", str(data), "--count", "1", "--spacing", "6", "--training-share", "1"]
    assert _contacted(tmp_path, "gcis-train", *phantoms) == []
    rows = json.loads((data / "datalist.json").read_text())["training"]
    one = data / "one.json"
    one.write_text(json.dumps({"training": [row for row in rows if row["prompt"] == "mandible"]}))
    size = ["--feature-size", "12", "--pathways", "2", "--patch-size", "64", "--spacing", "6"]
    rest = ["--orientation", "RAS", "--max-epochs", "1", "--windows-per-case", "1"]
    files = ["--datalist", str(one), "--run-dir", str(run), "--clip-weights", "random"]
    assert _contacted(tmp_path, "gcis-train", "pretrain", *files, *size, *rest) == []
    assert _contacted(tmp_path, "gcis-train", "paths", "--checkpoint", str(run)) == []
    engines = ["--engine", "onnx", "--engine", "openvino"]
    export = ["--checkpoint", str(run), "--prompt", "mandible", *engines, "-o", str(bundle)]
    assert _contacted(tmp_path, "gcis-export", *export) == []
    for engine in ("onnx", "openvino"):
        phantom = ["--phantom", "7", "--bundle", "demo", "--engine", engine, "-o", str(tmp_path / engine)]
        assert _contacted(tmp_path, "gcis-run", *phantom, "--body-crop", "--preview") == []


def test_the_user_keeps_variables_of_dependencies() -> None:
    environment = {"ORT_DISABLE_TELEMETRY": "0", "USER": "somebody"}
    set_defaults(environment)
    assert environment["ORT_DISABLE_TELEMETRY"] == "0"
    assert environment["USER"] == "somebody"
    assert environment["DO_NOT_TRACK"] == "1"


@needs_unshare
@pytest.mark.parametrize("home", ["none", "missing", "read-only"])
def test_a_user_without_an_entry_lists_bundles(tmp_path: Path, home: str) -> None:
    environment = {"TMPDIR": str(tmp_path)}
    if home != "none":
        environment["HOME"] = str(tmp_path / "home")
    if home == "read-only":
        (tmp_path / "home").touch()  # a file cannot hold folders, whatever the user's rights
    done = _run([*NAMELESS, str(BIN / "gcis-bundle"), "list"], environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "gcis-12345").is_dir() == (home == "none")


@needs_unshare
def test_a_temporary_home_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gcis-12345").mkdir()
    (tmp_path / "gcis-12345").chmod(0o777)
    done = _run([*NAMELESS, str(BIN / "gcis-bundle"), "list"], {"TMPDIR": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Set GCIS_HOME" in done.stderr


@pytest.mark.slow
@needs_unshare
def test_monai_can_be_imported_by_a_user_without_an_entry(tmp_path: Path) -> None:
    checkpoint = ["paths", "--checkpoint", str(tmp_path / "none")]
    done = _run([*NAMELESS, str(BIN / "gcis-train"), *checkpoint], {"HOME": str(tmp_path)})
    assert done.returncode == 2
    assert "is not a checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
