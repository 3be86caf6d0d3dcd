"""Import the package of an engine, even if a damaged copy earlier on the search path hides it."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from gcis_runtime.engines.usable import reason_of

_LOG = logging.getLogger(__name__)


def import_package(name: str, *, needs: str) -> ModuleType:
    """Import a package and check that it is complete.

    A copy that fails is skipped if a later folder of `sys.path` contains another one. PYTHONPATH, as
    environment modules of clusters set it, and folders of the user can hide the package that was installed
    with gCIS. A warning names the skipped copy and the one in use.

    Args:
        name: Package without a parent.
        needs: Attribute that a complete package has.

    Raises:
        ImportError: The package is not installed or not complete.
        Exception: Any other error of a damaged package; if several copies fail, that of the first one.
    """
    try:
        return _complete(importlib.import_module(name), needs)
    except Exception as error:
        copies = _copies(name)
        for file, (spec, loader) in list(copies.items())[1:]:
            module = _load(name, spec, loader, needs)
            if module is not None:
                _LOG.warning(
                    "%s in %s cannot be used (%s: %s); the copy in %s is used",
                    name, next(iter(copies)), type(error).__name__, reason_of(error), file,
                )  # fmt: skip
                return module
        raise


def _complete(module: ModuleType, needs: str) -> ModuleType:
    if not hasattr(module, needs):
        raise ImportError(f"the package {module.__name__} is not complete: it has no {needs!r}")
    return module


def _copies(name: str) -> dict[str, tuple[ModuleSpec, Loader]]:
    """Return the copies of a package on `sys.path` by file, in the order of the search."""
    found: dict[str, tuple[ModuleSpec, Loader]] = {}
    for folder in sys.path:
        spec = PathFinder.find_spec(name, [folder])
        if spec is not None and spec.loader is not None and spec.origin is not None:
            found.setdefault(spec.origin, (spec, spec.loader))
    return found


def _load(name: str, spec: ModuleSpec, loader: Loader, needs: str) -> ModuleType | None:
    """Import one copy instead of another; return None if it fails too."""
    _forget(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
        return _complete(module, needs)
    except Exception:  # a damaged package raises anything; the error of the first copy is reported
        _forget(name)
        return None


def _forget(name: str) -> None:
    """Remove a package and its modules; entries without a module, which block an import, remain."""
    for other, module in list(sys.modules.items()):
        if module is not None and (other == name or other.startswith(f"{name}.")):
            del sys.modules[other]
