"""Test that ONNX Runtime's warnings during its import are hidden, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = """
import os, sys
if sys.__stderr__ is None:
    os.write = lambda *_: None
os.write(2, b"[W:onnxruntime:Default, device_discovery.cc:164] GPU device discovery failed\\n")
os.write(2, b"a line of another library\\n")
if os.environ.get("FAIL"):
    raise ImportError("libcudart.so.13 is missing")
InferenceSession = None
"""
SCRIPT = """
import logging, os, sys
import msgspec, numpy
sys.path[:] = [sys.argv[1], *(f for f in sys.path if not os.path.isdir(os.path.join(f, "onnxruntime")))]
if len(sys.argv) > 2:
    logging.getLogger("gcis_runtime").setLevel(logging.DEBUG)
import gcis_runtime.engines.onnx
"""


def _import(folder: Path, *verbose: str, closed: bool = False, **environment: str) -> str:
    (folder / "onnxruntime.py").write_text(PACKAGE)
    command = [sys.executable, "-c", SCRIPT, str(folder), *verbose]
    if closed:
        command = ["sh", "-c", '"$@" 2>&-', "sh", *command]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == (1 if environment else 0)
    return done.stderr


def test_warnings_are_hidden_and_other_messages_are_not(tmp_path: Path) -> None:
    assert _import(tmp_path) == "a line of another library\n"


def test_warnings_are_printed_where_they_were_asked_for(tmp_path: Path) -> None:
    assert "GPU device discovery failed" in _import(tmp_path, "verbose")


def test_a_failing_import_raises_and_a_closed_stream_is_no_error(tmp_path: Path) -> None:
    assert "libcudart.so.13 is missing" in _import(tmp_path, FAIL="yes")
    assert not _import(tmp_path, closed=True)
