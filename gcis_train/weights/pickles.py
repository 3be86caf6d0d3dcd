"""Read tensors from PyTorch files without executing code from them.

`torch.load(weights_only=True)` admits tensors and plain containers. Trainers also store NumPy scalars, such
as the best accuracy as `numpy.float64`. The names that such a scalar is pickled with are bound to
replacements in this module, which accept numbers only, so that no NumPy constructor receives values from the
file.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, Final

import torch

_FORMATS: Final = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip
"""Format of the `struct` module per NumPy type code."""
_CODE: Final = re.compile(r"(^|/)(constants\.pkl$|code/)")
"""Entries of an archive that only TorchScript writes."""

_TRUNCATED: Final = re.compile(r"truncated|ran out of input", re.IGNORECASE)


class DamagedFileError(ValueError):
    """A PyTorch file ends early or cannot be parsed."""

    def __init__(self) -> None:
        super().__init__("a file that is incomplete or damaged, or not a PyTorch file")


def load_pickle(path: Path) -> Any:
    """Return the contents of a PyTorch file: tensors and plain values; NumPy scalars become Python numbers.

    Raises:
        OSError: The file cannot be opened.
        pickle.UnpicklingError: The file contains other objects or code, or is not a PyTorch file.
        DamagedFileError: The file is incomplete or damaged.
    """
    with path.open("rb"):
        pass  # an error from here on concerns the content, not the path or its permissions
    if is_torchscript(path):
        raise pickle.UnpicklingError("a TorchScript archive, which contains code")
    try:
        with torch.serialization.safe_globals([_ScalarType, _scalar, _scalar_numpy1]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _TRUNCATED.search(str(error)):
            raise DamagedFileError from error
        raise
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        raise DamagedFileError from error


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive: a program, which runs while it is loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(_CODE.search(name) for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


class _ScalarType:
    """Stands for `numpy.dtype`: the type of a number, given by its code such as `f8`, and its byte order."""

    def __init__(self, code: object, align: object = False, copy: object = False) -> None:
        if not isinstance(code, str) or code not in _FORMATS:
            raise pickle.UnpicklingError(f"the NumPy type {code!r} is not a number")
        self.format = _FORMATS[code]
        self.order = "<"

    def __setstate__(self, state: object) -> None:
        """Read the byte order; the rest of the state describes structured types, which are not accepted."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a NumPy type has an unknown state")
        self.order = ">" if state[1] == ">" else "<"


def _scalar(kind: object, data: object = b"") -> bool | int | float:
    """Return the number that `numpy._core.multiarray.scalar` would create from a type and bytes."""
    if not isinstance(kind, _ScalarType) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a NumPy scalar is not a number")
    try:
        value: bool | int | float = struct.unpack(kind.order + kind.format, data)[0]
    except struct.error as error:
        raise pickle.UnpicklingError(f"a NumPy scalar is damaged: {error}") from error
    return value


def _scalar_numpy1(kind: object, data: object = b"") -> bool | int | float:
    """Return the number of a scalar written by NumPy 1, whose constructor has another name."""
    return _scalar(kind, data)


def _bind(target: Any, module: str, name: str) -> None:
    """Give an object the name under which `torch.load` looks it up.

    PyTorch 2.6 accepts no separate name beside an allowed object.
    """
    target.__module__, target.__name__, target.__qualname__ = module, name, name


_bind(_ScalarType, "numpy", "dtype")
_bind(_scalar, "numpy._core.multiarray", "scalar")
_bind(_scalar_numpy1, "numpy.core.multiarray", "scalar")
