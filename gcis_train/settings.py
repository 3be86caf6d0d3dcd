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
            tree.setdefault("network", {})[name] = given.pop(name)
    if "roi" in given:
        tree.setdefault("window", {})["roi"] = _three(given.pop("roi"), int, "--roi")
    if "spacing" in given:
        tree.setdefault("preprocess", {})["spacing"] = _three(given.pop("spacing"), float, "--spacing")
    if "orientation" in given:
        code = given.pop("orientation")
        tree.setdefault("preprocess", {})["orientation"] = None if code == "file" else code.upper()
    if "mirror" in given:
        tree.setdefault("augment", {})["mirror"] = given.pop("mirror")
    if "clip_weights" in given:
        tree["text_weights"] = given.pop("clip_weights")
    if given.pop("no_amp", False):
        given["amp"] = "none"
    tree |= given
    if tree.get("amp", "auto") == "auto":
        tree["amp"] = "fp16" if device.type == "cuda" else "none"
    tree.setdefault("window", {}).setdefault("roi", [128, 128, 128])
    try:
        return msgspec.convert(tree, TrainOptions)
    except (msgspec.ValidationError, ValueError) as error:
        raise DataError("an option has a value that is not allowed", received=str(error)) from error


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
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DataError("there is no CUDA device", received=name, fix="Use --device cpu.")
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
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"the configuration {path} cannot be read", received=str(error)) from error


def _three(text: str, kind: type[int] | type[float], option: str) -> list[float]:
    try:
        values: list[float] = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise DataError(
            f"{option} cannot be read", received=repr(text), expected="one number, or three with commas"
        )
    return values * 3 if len(values) == 1 else values
