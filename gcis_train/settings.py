"""From flags and a configuration file to one value of options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch

from gcis_runtime.errors import CheckpointError, DataError
from gcis_train import checkpoint
from gcis_train.options import TrainOptions

_NETWORK = ("feature_size", "pathways")


def resolve_options(flags: dict[str, Any], *, device: torch.device) -> TrainOptions:
    """Merge the recipe's defaults, a configuration file and flags, in rising order.

    Args:
        flags: Command-line values by option name; None where not given.
        device: Decides what `auto` mixed precision means: fp16 on CUDA, none on the CPU.

    Raises:
        DataError: An unreadable file, or a value that is not allowed.
    """
    given = {k: v for k, v in flags.items() if v is not None}
    tree = _read(given.pop("config", None))
    for name in _NETWORK:
        if name in given:
            _part(tree, "network")[name] = given.pop(name)
    if "roi" in given:
        _part(tree, "window")["roi"] = three_numbers(given.pop("roi"), int, "--roi")
    if "spacing" in given:
        _part(tree, "preprocess")["spacing"] = three_numbers(given.pop("spacing"), float, "--spacing")
    if "orientation" in given:
        code = given.pop("orientation")
        _part(tree, "preprocess")["orientation"] = None if code == "file" else code.upper()
    if "mirror" in given:
        _part(tree, "augment")["mirror"] = given.pop("mirror")
    if "clip_weights" in given:
        tree["text_weights"] = given.pop("clip_weights")
    if given.pop("no_amp", False):
        given["amp"] = "none"
    tree |= given
    if tree.get("amp", "auto") == "auto":
        tree["amp"] = "fp16" if device.type == "cuda" else "none"
    _part(tree, "window").setdefault("roi", [128, 128, 128])
    try:
        return msgspec.convert(tree, TrainOptions)
    except (msgspec.ValidationError, ValueError) as error:
        raise DataError("an option has a value that is not allowed", received=str(error)) from error


def _part(tree: dict[str, Any], name: str) -> dict[str, Any]:
    part = tree.setdefault(name, {})
    if not isinstance(part, dict):
        raise DataError(
            f"{name!r} of the configuration is not a group of options",
            received=repr(part),
            expected="a JSON object",
        )
    return part


def pick_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:N` means here.

    Raises:
        DataError: CUDA was asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DataError("unknown device", received=repr(name), expected="cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DataError("there is no such CUDA device", received=name, fix="Use --device cpu.")
    return device


def check_run_folder(run_dir: Path, *, resume: bool) -> None:
    """Refuse to write over an earlier run.

    Raises:
        CheckpointError: The folder holds a run and `resume` is false.
    """
    if not resume and (run_dir / checkpoint.POINTER_FILE).exists():
        raise CheckpointError(
            f"{run_dir} already holds a run", fix="Continue it with --resume, or choose another --run-dir."
        )


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"the configuration {path} cannot be read", received=str(error)) from error


def three_numbers(text: str, kind: type[int] | type[float], option: str) -> list[float]:
    """Read one number, or three with commas; one stands for all three axes.

    Raises:
        DataError: Neither.
    """
    try:
        values: list[float] = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise DataError(
            f"{option} cannot be read", received=repr(text), expected="one number, or three with commas"
        )
    return values * 3 if len(values) == 1 else values
