"""Change the state of the process as host programs and their libraries do, and restore it."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import decimal
import locale
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

_ROUNDING = {"upward": 0x800, "downward": 0x400, "toward zero": 0xC00}
_FLUSH = 0x8040
"""Flush-to-zero and denormals-are-zero bits of MXCSR, which programs linked with -ffast-math set."""
_MXCSR = 28
"""Byte offset of MXCSR in glibc's `fenv_t` on x86-64."""


def comma_locale(folder: Path) -> str:
    """Compile a locale with a decimal comma into a folder for LOCPATH; return its name."""
    if not shutil.which("localedef"):
        pytest.skip("localedef is not installed")
    command = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")]
    subprocess.run(command, capture_output=True, check=False)
    if not (folder / "de_DE.UTF-8").exists():
        pytest.skip("no locale sources")
    return "de_DE.UTF-8"


@contextlib.contextmanager
def _comma(folder: Path) -> Iterator[None]:
    before, path = locale.setlocale(locale.LC_NUMERIC), os.environ.get("LOCPATH")
    os.environ["LOCPATH"] = str(folder)
    try:
        locale.setlocale(locale.LC_NUMERIC, comma_locale(folder))
        assert locale.localeconv()["decimal_point"] == ","
        yield
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)
        os.environ.pop("LOCPATH")
        if path is not None:
            os.environ["LOCPATH"] = path


def _math() -> ctypes.CDLL:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the layout of the floating-point environment is that of glibc on x86-64")
    return ctypes.CDLL(ctypes.util.find_library("m"))


@contextlib.contextmanager
def rounding(direction: str) -> Iterator[None]:
    """Set the rounding direction of this thread: `upward`, `downward` or `toward zero`."""
    library = _math()
    library.fesetround(_ROUNDING[direction])
    try:
        one, tiny = np.float64(1), np.float64(1e-30)
        assert one + tiny > one if direction == "upward" else one - tiny < one
        yield
    finally:
        library.fesetround(0)


@contextlib.contextmanager
def flush_to_zero() -> Iterator[None]:
    """Flush denormal numbers of this thread to zero."""
    library = _math()
    state = ctypes.create_string_buffer(64)
    library.fegetenv(state)
    changed = ctypes.create_string_buffer(state.raw, 64)
    register = ctypes.c_uint32.from_buffer(changed, _MXCSR)
    register.value |= _FLUSH
    library.fesetenv(changed)
    try:
        assert float(np.float32(1e-40) * np.float32(1)) == 0
        yield
    finally:
        library.fesetenv(state)


@contextlib.contextmanager
def _decimal() -> Iterator[None]:
    with decimal.localcontext(decimal.Context(prec=2, rounding=decimal.ROUND_UP, traps=[decimal.Inexact])):
        yield


@contextlib.contextmanager
def _warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextlib.contextmanager
def _umask() -> Iterator[None]:
    before = os.umask(0o777)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def _no_folder(folder: Path) -> Iterator[None]:
    before, gone = Path.cwd(), folder / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _no_streams() -> Iterator[None]:
    """Take stdout and stderr away, as in programs without a console."""
    before = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


STATES: dict[str, Callable[[Path], contextlib.AbstractContextManager[object]]] = {
    "decimal comma": _comma,
    **{f"rounding {name}": lambda _, name=name: rounding(name) for name in _ROUNDING},
    "flush to zero": lambda _: flush_to_zero(),
    "decimal context": lambda _: _decimal(),
    "numpy raises": lambda _: np.errstate(all="raise"),
    "numpy prints little": lambda _: np.printoptions(precision=1, threshold=2, suppress=True, legacy="1.13"),
    "warnings are errors": lambda _: _warnings(),
    "umask 0777": lambda _: _umask(),
    "no working folder": _no_folder,
    "no streams": lambda _: _no_streams(),
}
"""Context manager of each state, which takes a folder for its files."""
