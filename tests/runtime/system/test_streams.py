"""Test that printing never ends a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest

from gcis_runtime.system.console import command
from gcis_runtime.system.json_files import json_text

NAMES = "\u60a3\u8005 \u00fc \U0001f600"
COMMAND = f"""
import click
from pathlib import Path
from gcis_runtime.system.console import command
@command("gcis-test")
def main():
    click.echo({NAMES!r}, err=True)
    click.echo({NAMES!r} * 40000)
    print({NAMES!r})
    Path("done").touch()
main([])
"""


def _run(folder: Path, encoding: str, redirect: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run the command in a shell that redirects its streams."""
    (folder / "command.py").write_text(COMMAND, encoding="utf-8")
    line = f'PYTHONUTF8=0 PYTHONIOENCODING={encoding} "{sys.executable}" command.py {redirect}'
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], cwd=folder, capture_output=True, check=False
    )


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
def test_characters_that_the_encoding_lacks_are_escaped(tmp_path: Path, encoding: str) -> None:
    done = _run(tmp_path, encoding)
    assert done.returncode == 0
    assert done.stderr.decode(encoding).strip() == NAMES.encode(encoding, "backslashreplace").decode(encoding)


@pytest.mark.parametrize(
    ("redirect", "code"),
    [("| true", 1), (">/dev/full", 1), (">&-", 0), ("2>/dev/full", 0), ("2>&-", 0), ("2>&1 | true", 1)],
)
def test_a_stream_that_cannot_be_written_does_not_end_the_work(
    tmp_path: Path, redirect: str, code: int
) -> None:
    done = _run(tmp_path, "ascii", redirect)
    assert done.returncode == code
    assert (tmp_path / "done").exists()
    assert b"Traceback" not in done.stderr


def test_json_on_standard_output_is_ascii() -> None:
    text = json_text({"name": NAMES, "line": "a\nb"})
    assert text.isascii()
    assert json.loads(text) == msgspec.json.decode(text) == {"name": NAMES, "line": "a\nb"}


def test_streams_are_restored() -> None:
    before = sys.stdout, sys.stderr

    @command("gcis-test")
    def main() -> None:
        click.echo("text")

    with pytest.raises(SystemExit):
        main([])
    assert (sys.stdout, sys.stderr) == before
