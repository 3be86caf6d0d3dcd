"""Test that the requests of docs/how-to/serve.md work as written, and that its tables name what exists."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from gcis_runtime.serve.http.openapi import document
from tests.support.bundles_and_images import write_bundle, write_ct
from tests.support.documents import HOWTO
from tests.support.service_process import Server, serving

GUIDE = (HOWTO / "serve.md").read_text()


@pytest.mark.service
def test_the_requests_of_the_guide_work(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b.gcis", prompts=("mandible", "spinal cord"))
    write_ct(tmp_path / "ct.nii.gz", shape=(20, 18, 16))
    scripts = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
    assert len(scripts) == 2
    with serving(tmp_path / "jobs", "--bundle", tmp_path / "b.gcis") as server:
        for script in scripts:
            done = run(script, server, tmp_path)
            assert done.returncode == 0, done.stderr
    assert '"state":"done"' in done.stdout
    for name in ("labels.nii.gz", "mandible.nii.gz", "mandible.png"):
        assert (tmp_path / name).stat().st_size > 100
    assert list((tmp_path / "jobs" / "jobs").iterdir()) != [], "the synchronous request left its job"


def run(script: str, server: Server, folder: Path) -> subprocess.CompletedProcess[str]:
    text = script.replace("http://127.0.0.1:8470", server.url)
    assert server.url in text
    return subprocess.run(
        ["bash", "-euc", text], cwd=folder, env={**os.environ}, capture_output=True, text=True, check=False
    )


def test_the_guide_names_every_route_and_every_status() -> None:
    routes = set(document()["paths"])
    named = {
        path.replace("ID", "{job}").replace("NAME", "{name}") for path in re.findall(r"(/[\w/.]+)`", GUIDE)
    }
    assert routes <= named, routes - named
    statuses = {
        status
        for operations in document()["paths"].values()
        for operation in operations.values() if isinstance(operation, dict)
        for status in operation["responses"]
    }  # fmt: skip
    table = set(re.findall(r"\b[45]\d\d\b", GUIDE))
    assert {s for s in statuses if s >= "400"} <= table


def test_the_guide_names_every_option_of_the_command() -> None:
    from gcis_runtime.cli.serve import main

    engine = {"engine", "device", "precision", "threads", "tf32", "version", "verbose", "help", "port"}
    options = {parameter.opts[-1] for parameter in main.params if parameter.name not in engine}
    assert {option for option in options if option not in GUIDE} == set()
