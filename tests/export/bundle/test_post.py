"""Test `gcis-export --post`: which structure gets which rules, and refusals before a graph is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from gcis_export.bundle.labels import make_labels, with_rules
from gcis_export.cli import main
from gcis_export.options import ExportRequest, read_post
from gcis_export.targets.formats import target_notes
from gcis_runtime.errors import BundleError, PromptError
from tests.support.export_cases import write_checkpoint

LABELS = make_labels(["left parotid gland", "larynx", "mandible"])


def rules(*texts: str) -> list[str]:
    found = with_rules(LABELS, [read_post(text) for text in texts])
    assert [msgspec.structs.replace(label, post=msgspec.UNSET) for label in found] == list(LABELS)
    return [label.post.text if label.post else "" for label in found]


def test_rules_belong_to_the_named_structure_an_alias_or_all_others():
    assert rules() == ["", "", ""]
    assert rules("mandible=fill, largest,min:0.5") == ["", "", "largest,min:0.5,fill"]
    assert rules("parotis links=largest") == ["largest", "", ""]
    assert rules("larynx=min:2", "*=largest") == rules("*=largest", "larynx=min:2")
    assert rules("*=largest", "larynx=min:2", "mandible=none") == ["largest", "min:2", ""]


@pytest.mark.parametrize("text", ["mandible", "=largest", "mandible=", "", "mandible=largest;fill"])
def test_a_text_that_is_no_structure_and_rules_is_refused(text):
    with pytest.raises(BundleError, match=r"(?s)received.*expected"):
        read_post(text)


def test_unknown_and_repeated_structures_are_refused():
    with pytest.raises(PromptError, match="liver"):
        rules("liver=largest")
    with pytest.raises(PromptError, match="two sets"):
        rules("mandible=largest", "Mandible=fill")


def test_the_command_refuses_rules_without_a_traceback_and_before_it_works(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "c").folder
    for text, words in {"x=big": "post-processing rules", "liver=largest": "liver"}.items():
        words_given = ["--checkpoint", str(checkpoint), "--post", text, "-o", str(tmp_path / "b.gcis")]
        result = CliRunner().invoke(main, words_given)
        assert result.exit_code == 2 and words in result.stderr
        assert "Traceback" not in result.stderr and "writing" not in result.stderr
    assert not (tmp_path / "b.gcis").exists()


def test_targets_without_rules_are_reported():
    request = ExportRequest(checkpoint=Path("c"), post=(read_post("*=largest"),), triton=Path("t"))
    assert "Triton models give raw labels" in target_notes(request)[0]
    for silent in ({"triton": None}, {"post": ()}, {"post": (read_post("*=none"),)}):
        assert target_notes(replace(request, **silent)) == ()
