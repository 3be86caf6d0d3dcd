"""Resolve flags, a configuration file and defaults to `TrainOptions`; select the device."""

from __future__ import annotations

import math
import re
import reprlib
from pathlib import Path
from typing import Any

import msgspec
import torch
import yaml

from gcis_runtime.errors import CheckpointError, DataError
from gcis_runtime.system.json_files import decode_json
from gcis_train.options.flags import FLAGS
from gcis_train.options.recipe import check_published, published_tree
from gcis_train.options.stored import from_stored, read_options
from gcis_train.options.training import Precision, TrainOptions
from gcis_train.weights import checkpoint

_MOST_VALUES = 10_000
"""Values of a configuration file, of which about 50 are known."""


def resolve_options(
    flags: dict[str, Any], *, device: torch.device, base: dict[str, Any] | None = None
) -> TrainOptions:
    """Merge defaults, checkpoint options, a configuration file and flags; later ones take precedence.

    Args:
        flags: Command-line values by parameter name (flags.py) plus `config`, `published` and `no_amp`; None
            for a flag that was not given.
        device: Device that resolves `auto` mixed precision, see `auto_amp`.
        base: Options stored in the checkpoint that the training starts from.

    Raises:
        DataError: The file cannot be read, a value is not allowed, or an option that the published recipe
            fixes has another value.
    """
    file = from_stored(_read(flags.get("config")))
    published = bool(flags.get("published") or file.pop("published", False))
    tree: dict[str, Any] = published_tree() if published else {}
    _merge(tree, base or {})
    _merge(tree, file)
    for flag in FLAGS:
        if (given := flags.get(flag.parameter)) is not None:
            *groups, name = flag.place.split(".")
            target = _part(tree, groups[0]) if groups else tree
            target[name] = flag.read(given)
            if target[name] is msgspec.UNSET:
                del target[name]
    if flags.get("no_amp"):
        tree["amp"] = "none"
    if tree.get("amp", "auto") == "auto":
        tree["amp"] = auto_amp(device, published=published)
    _part(tree, "window").setdefault("roi", [128, 128, 128])
    if published:
        check_published(tree, inherited=base)
    try:
        return msgspec.convert(tree, TrainOptions)
    except (msgspec.ValidationError, ValueError) as error:
        raise DataError(
            "an option has a value that is not allowed",
            received=str(error),
            fix="Correct the flag or the configuration file.",
        ) from error


def auto_amp(device: torch.device, *, published: bool = False) -> Precision:
    """Return the default mixed precision of a device.

    CUDA: bf16 on GPUs with native support (compute capability 8.0 and higher; no loss scaling, no overflow),
        fp16 on others and in the published recipe. CPU: none; docs/decisions/0012 has measurements of bf16.
    """
    if device.type != "cuda":
        return "none"
    native = torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if native and not published else "fp16"


def _merge(tree: dict[str, Any], other: dict[str, Any]) -> None:
    """Update the options in `tree` with those in `other`, group by group."""
    for name, value in other.items():
        if isinstance(tree.get(name), dict):
            if not isinstance(value, dict):
                raise _not_a_group(name, value)
            tree[name] |= value
        else:
            tree[name] = value


def _part(tree: dict[str, Any], name: str) -> dict[str, Any]:
    part = tree.setdefault(name, {})
    if not isinstance(part, dict):
        raise _not_a_group(name, part)
    return part


def _not_a_group(name: str, value: object) -> DataError:
    return DataError(
        f"{name!r} of the configuration is not a group of options",
        received=reprlib.repr(value),
        expected="a mapping from option names to values",
        fix="Correct the configuration file.",
    )


def pick_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:N` selects on this machine.

    Raises:
        DataError: The name is unknown, or the machine has no such CUDA device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DataError(
            "unknown device",
            received=repr(name),
            expected="cpu, cuda or cuda:N",
            fix="Correct --device.",
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DataError(
            "there is no such CUDA device",
            received=name,
            expected=f"one of {torch.cuda.device_count()} CUDA devices",
            fix="Use --device cpu.",
        )
    return device


def resumed_base(run_dir: Path) -> dict[str, Any]:
    """Return the options that a resumed run takes from its folder: the patch merging of its network.

    `options.json` of a run may lack the option; the network then has the default kind, also with
    `--published`. A folder without a readable file gives no options.
    """
    for file in (run_dir / "options.json", run_dir / "static" / "options.json"):
        if file.is_file():
            try:
                options = read_options(file.read_bytes())
            except (OSError, msgspec.MsgspecError, DataError):
                return {}
            return {"network": {"merging": options.network.merging}}
    return {}


def check_run_folder(run_dir: Path, *, resume: bool) -> None:
    """Raise an error if a new run would overwrite an earlier one.

    Raises:
        CheckpointError: The folder contains a run and `resume` is false.
    """
    if not resume and (run_dir / checkpoint.POINTER_FILE).exists():
        raise CheckpointError(
            f"{run_dir} already contains a run",
            expected="an empty or new folder",
            fix="Continue it with --resume, or choose another --run-dir.",
        )


def _read(path: Path | None) -> dict[str, Any]:
    """Return the options in a JSON or YAML file (`.yaml`, `.yml`); empty without a file."""
    if path is None:
        return {}
    try:
        data = path.read_bytes()
        if path.suffix.lower() in (".yaml", ".yml"):
            return _read_yaml(data)
        return decode_json(data, dict[str, Any])
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        received = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(
            f"the configuration {path} cannot be read",
            received=received,
            expected="a JSON or YAML file of options",
            fix="Correct the file, or pass another --config.",
        ) from error


def _count(value: Any, counted: dict[int, float]) -> float:
    """Return the number of values in a tree; aliases of YAML count each time, infinitely in themselves."""
    if not isinstance(value, dict | list | set):
        return 1
    if id(value) not in counted:
        counted[id(value)] = math.inf
        parts = value.values() if isinstance(value, dict) else value
        counted[id(value)] = 1 + sum(_count(part, counted) for part in parts)
    return counted[id(value)]


def _read_yaml(data: bytes) -> dict[str, Any]:
    """Return the plain values of a YAML document.

    `1e-4` is a number, as in JSON and YAML 1.2 but not in YAML 1.1.

    Raises:
        ValueError: The data is not YAML, or not a mapping of options.
    """

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Safe loader that also reads the number format of JSON."""

    number = re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        # Safe despite yaml.load: the loader derives from SafeLoader and creates plain values only.
        tree = yaml.load(data, Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if _count(tree, {}) > _MOST_VALUES:
        raise ValueError(f"more than {_MOST_VALUES} values")
    if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
        raise ValueError(f"{type(tree).__name__} at the top instead of a mapping of options")
    return tree
