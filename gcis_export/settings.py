"""Pre-processing and window of a bundle: the checkpoint's, what was asked for, or the published defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from gcis_runtime.errors import CheckpointError
from gcis_runtime.spec import Foreground, PreprocessSpec, Shape3, Triple, WindowSpec, check_padding
from gcis_train.weights.checkpoint import CheckpointConfig

_Spec = TypeVar("_Spec", PreprocessSpec, WindowSpec)

_WORDS = {
    "spacing": "spacing {} mm",
    "orientation": "orientation {}",
    "intensity_window": "intensity window {} HU",
    "foreground": "crop {}",
}
KEEP = "file"
"""Spelling of 'keep the file's orientation'."""


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the user asked for; None leaves it to the checkpoint.

    Attributes:
        patch_size: Window in voxels (X, Y, Z).
        overlap: Window overlap in [0, 1).
        spacing: Voxel size in mm.
        orientation: Axis codes, or `"file"`.
        intensity_window: HU mapped to 0 and 1.
        foreground: The rule that crops images to what is not air; unset for none.
    """

    patch_size: Shape3 | None = None
    overlap: float | None = None
    spacing: Triple | None = None
    orientation: str | None = None
    intensity_window: tuple[float, float] | None = None
    foreground: Foreground | msgspec.UnsetType | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the bundle's images are prepared and cut.

    Attributes:
        preprocess: Pre-processing.
        window: Sliding window.
        notes: What was assumed or overridden, for the user.
    """

    preprocess: PreprocessSpec
    window: WindowSpec
    notes: tuple[str, ...] = field(default=())


def choose_settings(config: CheckpointConfig, overrides: Overrides) -> Settings:
    """Combine the checkpoint's settings with the user's.

    Raises:
        CheckpointError: The checkpoint says no window and none was given, or a value is out of range.
    """
    notes: list[str] = []
    if config.window is None and overrides.patch_size is None:
        raise CheckpointError(
            "the checkpoint does not say its window",
            expected="--roi N or --roi X,Y,Z, multiples of 32 of at least 64",
            fix="Give the window that it was trained with (published gCIS 128, BTCV 96).",
        )
    try:
        preprocess = _preprocess(config.preprocess, overrides, notes)
        window = _window(config.window, overrides, notes)
        check_padding(preprocess, window)
    except ValueError as error:
        raise CheckpointError("the settings cannot be used", received=str(error)) from error
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
            f"the checkpoint does not say its pre-processing: published {_describe(base, changes)} assumed"
        )
    if stored is not None and changes:
        notes.append("pre-processing differs from the training's: " + _describe(base, changes, changed=True))
    return _replaced(base, changes)


def _window(stored: WindowSpec | None, overrides: Overrides, notes: list[str]) -> WindowSpec:
    changes: dict[str, Any] = {}
    if overrides.patch_size is not None:
        changes["patch_size"] = overrides.patch_size
    if overrides.overlap is not None:
        changes["overlap"] = overrides.overlap
    if stored is not None and overrides.patch_size not in (None, stored.patch_size):
        notes.append(f"window {overrides.patch_size} differs from the training's {stored.patch_size}")
    return _replaced(stored or WindowSpec(), changes)


def _replaced(base: _Spec, changes: dict[str, Any]) -> _Spec:
    """Return a spec with fields changed, validated as a new one."""
    return type(base)(**(msgspec.structs.asdict(base) | changes))


def _describe(base: PreprocessSpec, changes: dict[str, Any], *, changed: bool = False) -> str:
    """List the fields that were changed, or those that were not."""
    values = msgspec.structs.asdict(base) | changes
    shown = [name for name in _WORDS if (name in changes) == changed]
    return ", ".join(_WORDS[n].format(_text(values[n])) for n in shown)


def _text(value: object) -> str:
    if isinstance(value, Foreground):
        return f"to what is not air and {value.margin} voxels around"
    if value is None or value is msgspec.UNSET:
        return "of the file" if value is None else "none"
    return " x ".join(f"{v:g}" for v in value) if isinstance(value, tuple) and len(value) == 3 else str(value)
