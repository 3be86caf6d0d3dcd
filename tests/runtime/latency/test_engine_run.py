"""Test that measured times of an engine cover the whole run."""

from __future__ import annotations

import time

import pytest

from gcis_runtime.latency.engine_run import COMMAND, Run, measure
from gcis_runtime.latency.processes import run_process
from gcis_runtime.pipeline import post

pytestmark = pytest.mark.usefixtures("own_home")


def test_the_time_of_post_processing_is_counted(make_bundle, ct, tmp_path, monkeypatch):
    apply = post.apply_rules
    monkeypatch.setattr(post, "apply_rules", lambda *a, **k: (time.sleep(0.3), apply(*a, **k))[1])
    seconds = {}
    for name, rules in (("plain", ("", "")), ("rules", ("fill", ""))):
        run = Run(
            bundle=str(make_bundle(f"{name}.gcis", post=rules)), image=str(ct),
            out=str(tmp_path / "s.nii.gz"), engine="onnx", precision="fp32", threads=1, repeats=1,
            launched=time.monotonic(),
        )  # fmt: skip
        seconds[name] = measure(run)["samples"][0]["restore"]
    assert seconds["rules"] > 0.3 > seconds["plain"]


def test_a_measuring_process_imports_nothing_from_the_working_directory(
    make_bundle, ct, tmp_path, monkeypatch
):
    (tmp_path / "msgspec.py").write_text("raise SystemExit('imported from the working directory')\n")
    monkeypatch.chdir(tmp_path)
    run = Run(
        bundle=str(make_bundle("plain.gcis")), image=str(ct), out=str(tmp_path / "s.nii.gz"), engine="onnx",
        precision="fp32", threads=1, repeats=1, launched=0.0,
    )  # fmt: skip
    assert len(run_process(COMMAND, run, home=tmp_path)["samples"]) == 1
