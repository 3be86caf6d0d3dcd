"""Translate between option names and the names in files.

`options.json` in a run folder keeps the names and values of the first release, so that every release reads
every run. A configuration file may use either.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from gcis_runtime.errors import DataError
from gcis_runtime.system.json_files import decode_json
from gcis_train.nets.config import NetworkConfig
from gcis_train.options.training import TrainOptions

STORED_NAMES: Mapping[str, str] = MappingProxyType(
    {"router_gap": "router_margin", "structures_per_case": "rows", "unused_blocks": "unsampled"}
)
"""Name in files of each option whose names differ."""

STORED_VALUES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "structures_per_case": MappingProxyType({"all": "together", "one": "apart"}),
        "unused_blocks": MappingProxyType({"freeze": "rest", "decay": "drift"}),
    }
)
"""Value in files of each value that differs, by option."""


def to_stored(options: TrainOptions) -> dict[str, Any]:
    """Return options as a tree of builtin values with the names and values of `options.json`."""
    tree: dict[str, Any] = msgspec.to_builtins(options)
    for name, stored in STORED_NAMES.items():
        value = tree.pop(name)
        tree[stored] = STORED_VALUES.get(name, {}).get(value, value)
    if options.network.merging == NetworkConfig().merging:
        del tree["network"]["merging"]  # unknown to the first release, as the following
    for name in ("max_minutes", "workers"):
        if not tree[name]:
            del tree[name]
    return tree


def from_stored(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a tree of options with the names and values of `TrainOptions`.

    `window.patch_size` becomes `window.roi`, the field name that `WindowSpec` reads.

    Raises:
        DataError: An option occurs under both of its names.
    """
    result = dict(tree)
    for name, stored in STORED_NAMES.items():
        _rename(result, stored, name)
        current = {old: new for new, old in STORED_VALUES.get(name, {}).items()}
        if isinstance(value := result.get(name), str):
            result[name] = current.get(value, value)
    if isinstance(result.get("window"), dict):
        result["window"] = dict(result["window"])
        _rename(result["window"], "patch_size", "roi")
    return result


def read_options(data: bytes) -> TrainOptions:
    """Return the options in the contents of an `options.json` file.

    Raises:
        msgspec.MsgspecError: The contents are not JSON, or not valid options.
        DataError: An option occurs under both of its names.
    """
    return msgspec.convert(from_stored(decode_json(data, dict[str, Any])), TrainOptions)


def _rename(tree: dict[str, Any], old: str, new: str) -> None:
    if old not in tree:
        return
    if new in tree:
        raise DataError(
            "an option is set twice, under its current and its earlier name",
            received=f"{new!r} and {old!r}",
            expected="one of them",
            fix=f"Remove {old!r}.",
        )
    tree[new] = tree.pop(old)
