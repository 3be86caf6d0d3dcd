"""Test that `-v` shows tracebacks of one run only, not of later runs in the same process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from click.testing import CliRunner

from gcis_runtime.cli.bundle import main as bundle_main
from gcis_runtime.cli.run import main


def test_a_traceback_is_shown_only_where_it_was_asked_for(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.nii.gz")
    loud = CliRunner().invoke(main, ["-v", absent, "--bundle", str(tmp_path)])
    quiet = CliRunner().invoke(main, [absent, "--bundle", str(tmp_path)])
    assert (loud.exit_code, quiet.exit_code) == (2, 2)
    assert "Traceback" in loud.output
    assert "Traceback" not in quiet.output
    assert "absent.nii.gz" in quiet.output


def test_messages_of_onnx_runtime_are_printed_only_where_they_were_asked_for(
    make_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, ONNX Runtime logs errors that need no action, in red."""
    severities: list[tuple[int, int]] = []
    default: list[int] = []
    real = ort.InferenceSession

    def start(file: str, options: ort.SessionOptions, **others: Any) -> ort.InferenceSession:
        severities.append((options.log_severity_level, default[-1]))
        return real(file, options, **others)

    monkeypatch.setattr(ort, "InferenceSession", start)
    monkeypatch.setattr(ort, "set_default_logger_severity", default.append)
    bundle = str(make_bundle())
    for arguments in (["-v", "verify"], ["verify"]):
        assert CliRunner().invoke(bundle_main, [*arguments, bundle]).exit_code == 0
    assert set(severities[: len(severities) // 2]) == {(2, 2)}
    assert set(severities[len(severities) // 2 :]) == {(4, 4)}
