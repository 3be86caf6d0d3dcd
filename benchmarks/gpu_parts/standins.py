"""Stand-ins for packages that a GPU machine without a package index may lack: msgspec and MONAI.

The network, its losses and the export graph need `msgspec.Struct` and MONAI's Swin transformer, and nothing
else of them. Where they are missing, `install` puts modules of that name in their place that have just that:
the numbers are the same, and the record says so. Whatever needs more of them is not run.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from types import ModuleType
from typing import Any, dataclass_transform

PACKAGES = {
    "msgspec": "bundles and gcis-run (a stand-in serves the network)",
    "monai": "the published sliding window (a stand-in serves the network)",
    "einops": "MONAI's transformer",
    "nibabel": "CT files and gcis-run",
    "onnx": "writing graphs (or bring them: --prepare, --graphs)",
    "onnxscript": "writing graphs (or bring them: --prepare, --graphs)",
    "onnxruntime": "ONNX Runtime",
    "cuda": "blending on the GPU and gcis-run there (cuda-python)",
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT-RTX",
    "triton": "torch.compile on a GPU",
}
"""What each package is for; torch and numpy are needed."""


def missing() -> dict[str, str]:
    """Return the packages that cannot be found, and what they are for."""
    return {name: purpose for name, purpose in PACKAGES.items() if not found(name)}


def install() -> list[str]:
    """Put stand-ins where packages are missing; returns their names."""
    made = []
    if not found("msgspec"):
        _put("msgspec", **_msgspec())
        made.append("msgspec")
    if not (found("monai") and found("einops")):
        for name in [n for n in sys.modules if n == "monai" or n.startswith("monai.")]:
            del sys.modules[name]
        for name in ("monai", "monai.networks", "monai.networks.nets"):
            _put(name)
        from benchmarks.gpu_parts.swin import SwinTransformer  # noqa: PLC0415 (needs torch)

        _put("monai.networks.nets.swin_unetr", SwinTransformer=SwinTransformer)
        made.append("monai")
    return made


def found(name: str) -> bool:
    """Tell whether a package itself can be imported, not a stand-in."""
    if getattr(sys.modules.get(name), "__standin__", False):
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _put(name: str, **contents: Any) -> None:
    module = ModuleType(name)
    for key, value in {"__standin__": True, **contents}.items():
        setattr(module, key, value)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _msgspec() -> dict[str, Any]:
    """Return what the modules that are imported use of msgspec."""

    class Missing:
        """Reading and writing, which needs msgspec itself."""

        def __getattr__(self, name: str) -> Any:
            raise ImportError(f"msgspec is not installed: its {name} is needed here")

    contents: dict[str, Any] = {"Struct": Struct, "json": Missing(), "structs": Missing()}
    contents |= {
        name: type(name, (Exception,), {}) for name in ("MsgspecError", "DecodeError", "ValidationError")
    }
    contents["UnsetType"] = type("UnsetType", (), {"__bool__": lambda _: False})
    contents["UNSET"] = contents["UnsetType"]()
    contents["Meta"] = lambda **limits: limits  # only read by msgspec's own decoder
    return contents


@dataclass_transform(kw_only_default=True)
class Struct:
    """`msgspec.Struct` as far as values go: keyword-only, frozen where asked, validated after it is made."""

    _frozen = False

    def __init_subclass__(cls, *, frozen: bool | None = None, **_: Any) -> None:
        super().__init_subclass__()
        if frozen is not None:
            cls._frozen = frozen
        for name, default in list(vars(cls).items()):
            if name in vars(cls).get("__annotations__", {}) and isinstance(default, list | dict | set):
                setattr(cls, name, dataclasses.field(default_factory=type(default)))  # msgspec's are empty
        dataclasses.dataclass(kw_only=True, frozen=cls._frozen)(cls)
