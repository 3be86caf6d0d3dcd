"""Write a bundle as a MONAI bundle: metadata, inference workflow, ONNX graph and the code that runs it.

The MONAI bundle requires MONAI, PyTorch, pytorch-ignite and ONNX Runtime, but not gCIS. It contains no
pickled weights and therefore no `models/model.pt`; the network is `models/model.onnx`.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import MODEL_FILE, Manifest
from gcis_runtime.errors import OutputError
from gcis_runtime.spec import PreprocessSpec, WindowSpec, label_dtype
from gcis_runtime.system.atomic_files import replacing_folder, unwritable

METADATA = "configs/metadata.json"
INFERENCE = "configs/inference.json"
SCHEMA_URL = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
_SCRIPTS = ("ct_reader.py", "onnx_network.py")
"""Modules of this folder that are copied into the `scripts` of a MONAI bundle."""


def write_monai_bundle(bundle: Bundle, folder: Path) -> Path:
    """Write a MONAI bundle; an existing MONAI bundle is replaced completely.

    Args:
        bundle: A verified bundle.
        folder: Root folder of the MONAI bundle.

    Returns:
        The folder.

    Raises:
        OutputError: The folder cannot be written, or exists and is not a MONAI bundle.
    """
    check_monai_target(folder)
    files = {
        METADATA: _dumped(metadata(bundle)),
        INFERENCE: _dumped(inference(bundle.manifest)),
        "docs/README.md": _readme(bundle),
        "scripts/__init__.py": '"""Code of this MONAI bundle."""\n',
    }
    files |= {
        f"scripts/{name}": Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _SCRIPTS
    }
    try:
        with replacing_folder(folder) as temporary:
            for name, text in files.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_text(text, encoding="utf-8")
            (temporary / "models").mkdir()
            (temporary / "models" / "model.onnx").write_bytes(bundle.graph(MODEL_FILE))
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def check_monai_target(folder: Path) -> None:
    """Raise if `folder` exists and is neither a MONAI bundle nor empty.

    Raises:
        OutputError: The folder would have to be replaced but is not a MONAI bundle.
    """
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty and not (folder / METADATA).is_file():
        raise OutputError(
            f"{folder} exists and is not a MONAI bundle",
            expected=f"a new folder, or one with {METADATA}",
            fix="Choose another folder with --monai-bundle.",
        )


def metadata(bundle: Bundle) -> dict[str, Any]:
    """Return the content of `metadata.json`, following the MONAI bundle specification."""
    m = bundle.manifest
    structures = ", ".join(label.name for label in m.labels)
    tensor = {
        "type": "image",
        "num_channels": 1,
        "spatial_shape": list(m.window.patch_size),
        "dtype": "float32",
        "is_patch_data": True,
    }
    return {
        "schema": SCHEMA_URL,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by gCIS {_version('gcis')} from bundle {bundle.sha256[:12]}"},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch").split("+", maxsplit=1)[0],
        "numpy_version": _version("numpy"),
        "required_packages_version": {
            "nibabel": _version("nibabel"),
            "onnxruntime": _version("onnxruntime", "onnxruntime-gpu"),
            "pytorch-ignite": _version("pytorch-ignite"),
        },
        "name": m.name,
        "task": f"CT segmentation of {structures}",
        "description": f"Static network with one output channel per structure: {structures}. {m.notice}",
        "authors": "unknown",
        "copyright": "unknown",
        "intended_use": m.notice,
        "data_type": "nibabel",
        "network_data_format": {
            "inputs": {
                "image": tensor
                | {
                    "format": "hounsfield",
                    "modality": "CT",
                    "value_range": [0, 1],
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": tensor
                | {
                    "format": "classes",
                    "num_channels": len(m.labels),
                    "value_range": [],
                    "channel_def": {str(i): f"logit of {label.name}" for i, label in enumerate(m.labels)},
                }
            },
        },
        "gcis_bundle_sha256": bundle.sha256,
    }


def inference(m: Manifest) -> dict[str, Any]:
    """Return the content of `inference.json`: preprocessing and sliding window as MONAI transforms.

    Logits are interpolated linearly to the grid of the file and converted to labels there, as in `gcis-run`.
    """
    return {
        "imports": [
            "$import glob",
            "$import numpy",
            "$import torch",
            "$from scripts.ct_reader import CtReader",
            "$from scripts.onnx_network import logits_to_labels",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii.gz') + glob.glob(@dataset_dir + '/*.nii'))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "scripts.onnx_network.OnnxNetwork",
            "file": "$@bundle_root + '/models/model.onnx'",
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(m.preprocess)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': file} for file in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": _inferer(m.window),
        "postprocessing": _postprocessing([label.value for label in m.labels]),
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def _preprocessing(spec: PreprocessSpec) -> list[dict[str, Any]]:
    """Return the preprocessing of the network as MONAI transforms."""
    # MONAI's own reader takes the voxel size from pixdim where that differs from the affine.
    load = {"keys": "image", "reader": "$CtReader", "ensure_channel_first": True}
    steps: list[dict[str, Any]] = [{"_target_": "LoadImaged"} | load]
    if spec.orientation is not None:
        steps.append(
            {"_target_": "Orientationd", "keys": "image", "axcodes": spec.orientation, "labels": None}
        )
    if spec.spacing is not None:
        steps.append(
            {"_target_": "Spacingd", "keys": "image", "pixdim": list(spec.spacing), "mode": "bilinear"}
        )
    low, high = spec.intensity_window
    scale = {"a_min": low, "a_max": high, "b_min": 0.0, "b_max": 1.0, "clip": True}
    steps.append({"_target_": "ScaleIntensityRanged", "keys": "image"} | scale)
    if spec.crop is not None:
        rule = {"source_key": "image", "margin": spec.crop.margin, "allow_smaller": True}
        names = {"start_coord_key": None, "end_coord_key": None}
        steps.append({"_target_": "CropForegroundd", "keys": "image"} | rule | names)
    steps.append({"_target_": "EnsureTyped", "keys": "image"})
    return steps


def _inferer(window: WindowSpec) -> dict[str, Any]:
    """Return the sliding window of the bundle as MONAI's inferer."""
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(window.patch_size),
        "sw_batch_size": 1,
        "overlap": window.overlap,
        "mode": window.blend,
        "sigma_scale": window.sigma_scale,
        "padding_mode": "constant",
        "cval": window.padding_value,
    }


def _postprocessing(values: list[int]) -> dict[str, Any]:
    """Return the transforms from logits to label maps with these values on the grid of the file."""
    invert = {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": False,
    }
    label = {
        "_target_": "Lambdad",
        "keys": "pred",
        "func": f"$lambda logits: logits_to_labels(logits, {values})",
    }
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "seg",
        "output_dtype": f"$numpy.{label_dtype(max(values))}",
        "resample": False,
        "separate_folder": False,
    }
    return {"_target_": "Compose", "transforms": [invert, label, save]}


def _readme(bundle: Bundle) -> str:
    m = bundle.manifest
    rows = "\n".join(f"| {label.value} | {label.name} |" for label in m.labels)
    return f"""# {m.name}

{m.notice}

Exported by gCIS from the bundle {bundle.sha256}. ONNX Runtime runs the network, `models/model.onnx`.

| value in the label map | structure |
|---|---|
{rows}

Put CT files (NIfTI, HU) into `images/` and run in this folder:

    python -m monai.bundle run --config_file configs/inference.json

Label maps are written to `eval/`. To use other folders, add `--dataset_dir DIR` or `--output_dir DIR`.

`scripts/ct_reader.py` reads images by the rules of `gcis-run`: the grid is that of the affine, also where
pixdim differs; a 4-D file with one volume is accepted; colour, complex and non-finite voxels are errors.
Unlike `gcis-run`, this bundle reads NIfTI only, with lower-case suffixes, and does not verify gzip checksums.
"""


def _version(*packages: str) -> str:
    """Return the version of the first installed package among `packages`."""
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "unknown"


def _dumped(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"
