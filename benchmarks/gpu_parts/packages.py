"""Find missing packages of the GPU script, print how to download them, and use wheels from a folder.

A GPU machine without a package index gets wheels in a folder, which `--wheelhouse` unpacks and adds to the
import path; nothing is installed.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import shutil
import sys
import zipfile
from pathlib import Path

UNPACKED = "unpacked"
"""Subfolder of the wheelhouse for the contents of its wheels."""
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64", "any")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """An importable package.

    Attributes:
        purpose: Purpose of the package in the script.
        wheels: Distributions to download, without dependencies of PyTorch.
        required: Whether the script cannot run without it; otherwise only rows are left out.
    """

    purpose: str
    wheels: tuple[str, ...]
    required: bool = False


PACKAGES = {
    "torch": Package(purpose="every section: install PyTorch with CUDA", wheels=("torch",), required=True),
    "numpy": Package(purpose="every section", wheels=("numpy",), required=True),
    "msgspec": Package(purpose="network settings, bundles and gcis-run", wheels=("msgspec",), required=True),
    "monai": Package(purpose="the network and its sliding window", wheels=("monai",), required=True),
    "einops": Package(purpose="the transformer of MONAI", wheels=("einops",), required=True),
    "nibabel": Package(purpose="CT files and gcis-run", wheels=("nibabel", "packaging")),
    "onnx": Package(
        purpose="writing graphs, unless --graphs is given", wheels=("onnx", "protobuf", "ml_dtypes")
    ),
    "onnxscript": Package(
        purpose="writing graphs, unless --graphs is given", wheels=("onnxscript", "onnx-ir", "ml_dtypes")
    ),
    "onnxruntime": Package(purpose="ONNX Runtime", wheels=("onnxruntime-gpu", "flatbuffers")),
    "cuda": Package(
        purpose="blending on the GPU and gcis-run there (cuda-python)",
        wheels=("cuda-bindings", "cuda-pathfinder", "nvidia-cuda-nvrtc"),
    ),
    "tensorrt": Package(purpose="TensorRT", wheels=("tensorrt",)),
    "tensorrt_rtx": Package(purpose="TensorRT-RTX", wheels=("tensorrt-rtx",)),
    "triton": Package(purpose="torch.compile on a GPU", wheels=("triton",)),
}
"""Packages by the name that is imported."""


def found(name: str) -> bool:
    """Return whether a package can be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def missing(*, required: bool = False) -> dict[str, str]:
    """Return the purposes of missing packages by name.

    Args:
        required: Only packages that the script cannot run without.
    """
    return {
        name: package.purpose
        for name, package in PACKAGES.items()
        if (package.required or not required) and not found(name)
    }


def download_command(names: list[str]) -> str:
    """Return the pip command that downloads the wheels of packages for this version of Python on Linux."""
    wheels = list(dict.fromkeys(wheel for name in names for wheel in PACKAGES[name].wheels))
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    platforms = " ".join(f"--platform {platform}" for platform in _PLATFORMS)
    return (
        f"pip download --no-deps --only-binary :all: --python-version {python} {platforms} "
        f"-d wheels {' '.join(wheels)}"
    )


def missing_text() -> str | None:
    """Return the missing required packages and how to download them, one per line; None without any."""
    lacking = missing(required=True)
    if not lacking:
        return None
    return "\n".join(
        [
            "required packages are missing",
            *(f"  {name}, for {purpose}" for name, purpose in lacking.items()),
            "On a machine with a package index:",
            f"  {download_command(list(missing()))}",
            "Then copy the folder here and add --wheelhouse wheels.",
        ]
    )


def add_wheelhouse(folder: Path) -> Path:
    """Unpack the wheels of a folder and add their contents to the end of `sys.path`.

    Installed packages take precedence. Wheels that were unpacked before are not unpacked again.

    Args:
        folder: Folder of `.whl` files; their contents go to its subfolder `UNPACKED`.

    Returns:
        The folder that was added.

    Raises:
        FileNotFoundError: The folder has no wheel.
    """
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise FileNotFoundError(f"{folder} has no .whl file")
    target = folder.resolve() / UNPACKED
    target.mkdir(exist_ok=True)
    for wheel in wheels:
        done = target / f".{wheel.name}"
        if not done.exists():
            _unpack(wheel, target)
            done.touch()
    if str(target) not in sys.path:
        sys.path.append(str(target))
        importlib.invalidate_caches()
    return target


def _unpack(wheel: Path, target: Path) -> None:
    """Extract a wheel as an installer does: NAME.data/purelib and platlib belong next to the packages."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
        tops = {name.partition("/")[0] for name in archive.namelist()}
    for data in (target / top for top in tops if top.endswith(".data")):
        for kind in ("purelib", "platlib"):
            if (data / kind).is_dir():
                shutil.copytree(data / kind, target, dirs_exist_ok=True)
        shutil.rmtree(data)
