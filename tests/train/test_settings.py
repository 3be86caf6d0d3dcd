"""Options: recipe, then file, then flags; what is not allowed is one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gcis_runtime.errors import CheckpointError, DataError
from gcis_train.options import TrainOptions
from gcis_train.settings import check_run_folder, pick_device, resolve_options

CPU = torch.device("cpu")


def _resolve(**flags: Any) -> TrainOptions:
    return resolve_options(flags, device=CPU)


def test_the_recipe_is_the_default() -> None:
    options = _resolve(config=None, roi=None, no_amp=False)
    assert options == TrainOptions(amp="none")
    assert options.network.feature_size == 48 and options.window.roi == (128, 128, 128)
    assert resolve_options({}, device=torch.device("cuda")).amp == "fp16"


def test_flags_override_the_file_which_overrides_the_recipe(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text('{"network": {"feature_size": 24, "pathways": 3}, "seed": 5, "amp": "bf16"}')
    options = _resolve(
        config=config, feature_size=12, roi="64,96,64", spacing="3", orientation="ras", mirror="plain"
    )
    assert (options.network.feature_size, options.network.pathways, options.seed) == (12, 3, 5)
    assert options.window.roi == (64, 96, 64) and options.preprocess.spacing == (3.0, 3.0, 3.0)
    assert options.preprocess.orientation == "RAS" and options.augment.mirror == "plain"
    assert options.amp == "bf16" and _resolve(config=config, no_amp=True).amp == "none"
    assert _resolve(orientation="file").preprocess.orientation is None
    assert _resolve(clip_weights="random").text_weights == "random"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"roi": "32"}, "at least 64"),
        ({"roi": "64,64"}, "--roi cannot be read"),
        ({"roi": "big"}, "--roi cannot be read; received 'big'"),
        ({"feature_size": 10}, "multiple of 12"),
        ({"max_epochs": 0}, "at least 1"),
        ({"learning_rate": -1.0}, "positive"),
        ({"phantoms": -1}, "not negative"),
        ({"orientation": "RAX"}, "three axis codes"),
        ({"validation_cases": -2}, "not negative"),
    ],
)
def test_values_that_are_not_allowed(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _resolve(**flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"learningrate": 1}', "unknown field `learningrate`"),
        ('{"augment": {"mirror": "never"}}', "mirror"),
        ('{"window": 3}', "'window' of the configuration is not a group"),
        ('{"labelled_share": 2}', "not a share"),
        ('{"validation_overlap": 1.0}', "validation_overlap"),
    ],
)
def test_files_that_are_not_allowed(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "c.json"
    config.write_text(text)
    with pytest.raises(DataError, match=message):
        _resolve(config=config)


def test_a_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        _resolve(config=tmp_path / "none.json")
    (tmp_path / "b.json").write_bytes(b'{"seed": "\xff"}')
    with pytest.raises(DataError, match="cannot be read"):
        _resolve(config=tmp_path / "b.json")


def test_devices() -> None:
    assert pick_device("cpu") == CPU
    with pytest.raises(DataError, match="unknown device; received 'banana'"):
        pick_device("banana")
    if not torch.cuda.is_available():
        assert pick_device("auto") == CPU
        with pytest.raises(DataError, match="no such CUDA device"):
            pick_device("cuda")
    with pytest.raises(DataError, match="no such CUDA device"):
        pick_device("cuda:99")


def test_an_earlier_run_is_not_written_over(tmp_path: Path) -> None:
    check_run_folder(tmp_path, resume=False)
    (tmp_path / "checkpoint.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"already holds a run.*--resume"):
        check_run_folder(tmp_path, resume=False)
    check_run_folder(tmp_path, resume=True)
