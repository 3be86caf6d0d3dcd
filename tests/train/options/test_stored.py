"""Test earlier option names: files and command lines of the first release are read and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import torch
from click.testing import CliRunner

from gcis_runtime.errors import DataError
from gcis_train.cli.main import main
from gcis_train.options.flags import FLAGS
from gcis_train.options.settings import resolve_options
from gcis_train.options.stored import read_options, to_stored
from gcis_train.options.training import TrainOptions
from gcis_train.training.loop.run_folder import OPTIONS_FILE, RunFolder

FIRST_RELEASE = (Path(__file__).parents[2] / "data" / "train_options_v1.json").read_bytes()
CPU = torch.device("cpu")


def test_options_json_of_the_first_release_is_read_and_written_unchanged(tmp_path: Path) -> None:
    options = read_options(FIRST_RELEASE)
    assert options.router_gap == 4.5 and options.window.patch_size == (64, 96, 64)
    assert options.structures_per_case == "one" and options.unused_blocks == "decay"
    RunFolder(tmp_path).write_options(options)
    written = msgspec.json.decode((tmp_path / OPTIONS_FILE).read_bytes())
    assert written == msgspec.json.decode(FIRST_RELEASE)
    assert RunFolder(tmp_path).changed_options(options) == []
    other = msgspec.structs.replace(options, router_gap=9.0)
    assert RunFolder(tmp_path).changed_options(other) == ["router_gap: 4.5 -> 9.0"]


def test_the_default_text_weights_are_the_published_ones_and_old_runs_keep_theirs() -> None:
    assert TrainOptions().text_weights == "laion400m_e32"
    assert read_options(FIRST_RELEASE).text_weights == "openai"


def test_defaults_survive_a_file() -> None:
    assert read_options(msgspec.json.encode(to_stored(TrainOptions()))) == TrainOptions()


@pytest.mark.parametrize(
    "text",
    [
        "rows: apart\nunsampled: drift\nrouter_margin: 3\nwindow: {roi: [64, 64, 96]}",
        "structures_per_case: one\nunused_blocks: decay\nrouter_gap: 3\nwindow: {patch_size: [64, 64, 96]}",
    ],
)
def test_a_configuration_file_may_use_either_name(tmp_path: Path, text: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(text)
    options = resolve_options({"config": config}, device=CPU)
    assert options.structures_per_case == "one" and options.unused_blocks == "decay"
    assert options.router_gap == 3 and options.window.patch_size == (64, 64, 96)


def test_both_names_of_an_option_are_an_error(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    for text, names in (
        ('{"rows": "apart", "structures_per_case": "one"}', "'structures_per_case' and 'rows'"),
        ('{"window": {"roi": [64, 64, 64], "patch_size": [64, 64, 64]}}', "'roi' and 'patch_size'"),
    ):
        config.write_text(text)
        with pytest.raises(DataError, match=f"set twice.*received {names}"):
            resolve_options({"config": config}, device=CPU)


def _parse(*args: str) -> dict[str, Any]:
    """Return the flags that `gcis-train pretrain` parses."""
    command = main.commands["pretrain"]  # type: ignore[attr-defined]
    return command.make_context("pretrain", ["--datalist", "d", "--run-dir", "r", *args]).params


def test_earlier_flags_and_words_are_accepted_and_not_shown() -> None:
    earlier = _parse("--roi", "64", "--rows", "apart", "--router-margin", "3", "--unsampled", "drift")
    current = _parse(
        "--patch-size", "64", "--structures-per-case", "one", "--router-gap", "3", "--unused-blocks", "decay"
    )  # fmt: skip
    assert earlier == current and earlier["structures_per_case"] == "one"
    shown = CliRunner().invoke(main, ["pretrain", "--help"]).output
    assert not any(f"{flag.former} " in shown for flag in FLAGS if flag.former)
    assert "--patch-size" in shown and "[all|one]" in shown and "apart" not in shown
    with pytest.raises(click.BadParameter, match=r"'none' is not one of 'freeze', 'decay'"):
        _parse("--unused-blocks", "none")
