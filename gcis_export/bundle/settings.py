"""Choose preprocessing and sliding window of a bundle from overrides, checkpoint and published defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from gcis_export.options import Overrides
from gcis_runtime.errors import CheckpointError
from gcis_runtime.spec import Foreground, PreprocessSpec, WindowSpec, check_padding
from gcis_train.weights.checkpoint import CheckpointConfig

_Spec = TypeVar("_Spec", PreprocessSpec, WindowSpec)

_WORDS = {
    "spacing": "spacing {} mm",
    "orientation": "orientation {}",
    "intensity_window": "intensity window {} HU",
    "foreground": "crop {}",
}
KEEP = "file"
"""Orientation that keeps the axes of the image file."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Preprocessing and sliding window of a bundle.

    Attributes:
        preprocess: Preprocessing.
        window: Sliding window.
        notes: Notes on assumed or overridden settings.
    """

    preprocess: PreprocessSpec
    window: WindowSpec
    notes: tuple[str, ...] = field(default=())


def choose_settings(config: CheckpointConfig, overrides: Overrides) -> Settings:
    """Return the settings of the checkpoint with the overrides applied.

    Args:
        config: Configuration of the checkpoint.
        overrides: Settings that replace those of the checkpoint.

    Raises:
        CheckpointError: The checkpoint stores no window and none was given, or a value is out of range.
    """
    notes: list[str] = []
    if config.window is None and overrides.patch_size is None:
        raise CheckpointError(
            "the checkpoint does not store a window size",
            expected="--patch-size N or --patch-size X,Y,Z, multiples of 32 of at least 64",
            fix="Give the window size of its training (published gCIS 128, BTCV 96).",
        )
    try:
        preprocess = _preprocess(config.preprocess, overrides, notes)
        window = _window(config.window, overrides, notes)
        check_padding(preprocess, window)
    except ValueError as error:
        raise CheckpointError(
            "the settings cannot be used",
            received=str(error),
            fix="Change the named option, or omit it to use the setting of the checkpoint.",
        ) from error
    return Settings(preprocess=preprocess, window=window, notes=tuple(notes))


def _preprocess(stored: PreprocessSpec | None, overrides: Overrides, notes: list[str]) -> PreprocessSpec:
    changes: dict[str, Any] = {}
    if overrides.spacing is not None:
        changes["spacing"] = overrides.spacing
    if overrides.orientation is not None:
        changes["orientation"] = None if overrides.orientation == KEEP else overrides.orientation
    if overrides.intensity_window is not None:
        changes["intensity_window"] = overrides.intensity_window
    if overrides.foreground is not None:
        changes["foreground"] = overrides.foreground
    base = stored or PreprocessSpec()
    if stored is None and set(_WORDS) - set(changes):
        notes.append(
            "the checkpoint does not store its preprocessing: "
            f"assuming the published {_describe(base, changes)}"
        )
    if stored is not None and changes:
        notes.append("preprocessing differs from training: " + _describe(base, changes, changed=True))
    return _replaced(base, changes)


def _window(stored: WindowSpec | None, overrides: Overrides, notes: list[str]) -> WindowSpec:
    changes: dict[str, Any] = {}
    if overrides.patch_size is not None:
        changes["patch_size"] = overrides.patch_size
    if overrides.overlap is not None:
        changes["overlap"] = overrides.overlap
    if stored is not None and overrides.patch_size not in (None, stored.patch_size):
        notes.append(f"window size {overrides.patch_size} differs from {stored.patch_size} in training")
    return _replaced(stored or WindowSpec(), changes)


def _replaced(base: _Spec, changes: dict[str, Any]) -> _Spec:
    """Return a copy with changed fields; the constructor validates it."""
    return type(base)(**(msgspec.structs.asdict(base) | changes))


def _describe(base: PreprocessSpec, changes: dict[str, Any], *, changed: bool = False) -> str:
    """Return the fields in `changes`, or else the fields not in it, as text."""
    values = msgspec.structs.asdict(base) | changes
    shown = [name for name in _WORDS if (name in changes) == changed]
    return ", ".join(_WORDS[n].format(_text(values[n])) for n in shown)


def _text(value: object) -> str:
    if isinstance(value, Foreground):
        return f"to the foreground with a margin of {value.margin} voxels"
    if value is None or value is msgspec.UNSET:
        return "of the file" if value is None else "none"
    return " x ".join(f"{v:g}" for v in value) if isinstance(value, tuple) and len(value) == 3 else str(value)
