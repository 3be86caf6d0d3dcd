"""Test that `-v` shows tracebacks of one run only, not of later runs in the same process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from gcis_runtime.cli.run import main


def test_a_traceback_is_shown_only_where_it_was_asked_for(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.nii.gz")
    loud = CliRunner().invoke(main, ["-v", absent, "--bundle", str(tmp_path)])
    quiet = CliRunner().invoke(main, [absent, "--bundle", str(tmp_path)])
    assert (loud.exit_code, quiet.exit_code) == (2, 2)
    assert "Traceback" in loud.output
    assert "Traceback" not in quiet.output
    assert "absent.nii.gz" in quiet.output
