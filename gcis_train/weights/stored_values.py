"""Check what weights files contain: finite tensors, and the patch merging of imports by earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from gcis_runtime.choices import Merging
from gcis_runtime.errors import CheckpointError
from gcis_runtime.system.json_files import decode_json

IMPORTED_MERGING: Final[Merging] = "v0.9"
"""Patch merging that published weights were trained with."""


def refuse_non_finite(weights: Mapping[str, Tensor], file: Path) -> None:
    """Raise an error if a tensor contains NaN or infinity, with which every mask would be empty or arbitrary.

    Args:
        weights: Tensors by name; those of integers are finite.
        file: File that they were read from.

    Raises:
        CheckpointError: A tensor is not finite.
    """
    bad = [name for name, tensor in weights.items() if not bool(tensor.isfinite().all())]
    if bad:
        more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise CheckpointError(
            f"{file} contains values that are not finite",
            received=f"NaN or infinity in {bad[0]}{more}",
            expected="finite numbers",
            fix="Copy or download the file again; if a training diverged, use an earlier checkpoint.",
        )


def lacks_merging(config: bytes) -> bool:
    """Return whether a `config.json` describes imported weights and was written before it recorded merging.

    Raises:
        msgspec.DecodeError: The data is not a JSON object.
    """
    tree = decode_json(config, dict[str, Any])
    network, provenance = tree.get("network"), tree.get("provenance")
    imported = isinstance(provenance, dict) and "source_kind" in provenance
    return imported and isinstance(network, dict) and "merging" not in network


def assumed_merging(name: str) -> str:
    """Return the note on a checkpoint for which `lacks_merging` is true."""
    return (
        f"{name} was imported by an earlier version, which did not record the patch merging; "
        f"{IMPORTED_MERGING} is used, with which published weights were trained. If these weights were "
        "trained with MONAI 1.5 or later, import the file again with --merging v2."
    )
