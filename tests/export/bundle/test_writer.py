"""Test that a bundle is written completely or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from gcis_export.bundle.writer import staged
from gcis_runtime.bundles.manifest import MANIFEST_FILE
from gcis_runtime.errors import OutputError, ParityError


def _fill(folder, text):
    (folder / MANIFEST_FILE).write_text(text)


def test_a_new_bundle_takes_its_name_at_the_end(tmp_path):
    target = tmp_path / "deep" / "b.gcis"
    with staged(target) as folder:
        _fill(folder, "new")
        assert not target.exists() and folder.parent == target.parent
    assert [p.name for p in target.parent.iterdir()] == ["b.gcis"]
    assert (target.stat().st_mode & 0o777, (target / MANIFEST_FILE).stat().st_mode & 0o777) == (0o755, 0o644)


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(ParityError), staged(tmp_path / "b.gcis") as folder:
        _fill(folder, "half")
        raise ParityError("broken")
    assert list(tmp_path.iterdir()) == []


def test_an_older_bundle_is_replaced_only_by_a_whole_one(tmp_path):
    target = tmp_path / "b.gcis"
    with staged(target) as folder:
        _fill(folder, "old")
    with pytest.raises(ParityError), staged(target) as folder:
        _fill(folder, "half")
        raise ParityError("broken")
    assert (target / MANIFEST_FILE).read_text() == "old"
    with staged(target) as folder:
        _fill(folder, "new")
    assert (target / MANIFEST_FILE).read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["b.gcis"]


def test_what_is_not_a_bundle_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    (tmp_path / "file").touch()
    for name in ("photos", "file"):
        with pytest.raises(OutputError, match="is not a bundle"), staged(tmp_path / name):
            pass
    with pytest.raises(OutputError, match="cannot be written"), staged(tmp_path / "file" / "b.gcis"):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from gcis_export.bundle.writer import staged
from gcis_export.precision import int8

shape = [1, 1, 4, 4, 4]
weights = {"w": np.ones((1, 1, 3, 3, 3), np.float32)}
graph = helper.make_graph(
    [
        helper.make_node("Relu", ["image"], ["positive"], name="relu"),
        helper.make_node("Conv", ["positive", "w"], ["margins"], name="conv", pads=[1] * 6),
    ],
    "g",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
    [helper.make_tensor_value_info("margins", TensorProto.FLOAT, shape)],
    [numpy_helper.from_array(value, name) for name, value in weights.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
int8._Reader.get_next = lambda self: os.kill(os.getpid(), signal.SIGKILL)
with staged(Path(sys.argv[1])):
    int8.int8_graph(model, [np.arange(64, dtype=np.float32).reshape(shape)])
"""


def test_temporary_files_of_a_killed_quantisation_are_removed_by_the_next_export(tmp_path):
    target, temporary = tmp_path / "out" / "b.gcis", tmp_path / "tmp"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, target], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(target.parent.rglob("fp32.onnx")), "the quantiser was at work"
    assert list(temporary.iterdir()) == []
    with staged(target) as folder:
        _fill(folder, "new")
    assert [p.name for p in target.parent.iterdir()] == ["b.gcis"]
    assert [p.name for p in target.iterdir()] == [MANIFEST_FILE]


def test_temporary_files_are_elsewhere_again_after_an_export(tmp_path):
    before = tempfile.gettempdir()
    with pytest.raises(ParityError), staged(tmp_path / "b.gcis") as folder:
        assert tempfile.gettempdir().startswith(str(folder))
        raise ParityError("broken")
    assert tempfile.gettempdir() == before
