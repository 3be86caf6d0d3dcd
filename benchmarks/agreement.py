"""Compare the labels of the runtime with those of PyTorch and MONAI, voxel by voxel, for one checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation
from torch import Tensor

from gcis_export.export import export
from gcis_export.options import ExportRequest
from gcis_runtime import Segmenter, Volume, read_volume
from gcis_runtime.demo.phantom import make_phantom
from gcis_runtime.images.nifti import write_volume
from gcis_runtime.latency.environment import environment
from gcis_runtime.sliding.labeller import Restore
from gcis_train.evaluation.evaluate import static_network
from gcis_train.evaluation.reference import reference_labels
from gcis_train.nets.network import StaticGcisNet
from gcis_train.weights import checkpoint as checkpoints

WANTED = 0.9999
"""Minimum share of equal voxels in float32."""

Compare = Callable[[Path], list[dict[str, Any]]]
"""Maps a CT file to one row of the record per interpolation of labels and engine."""


def _flipped(volume: Volume) -> Volume:
    array = volume.array[::-1, :, ::-1]
    turn = np.diag([-1.0, 1.0, -1.0, 1.0])
    turn[[0, 2], 3] = volume.shape[0] - 1, volume.shape[2] - 1
    return Volume(array=array, affine=volume.affine @ turn)


def _permuted(volume: Volume) -> Volume:
    return Volume(array=volume.array.transpose(2, 0, 1), affine=volume.affine[:, [2, 0, 1, 3]])


def _oblique(volume: Volume) -> Volume:
    affine = volume.affine.copy()
    affine[:3, :3] = Rotation.from_euler("xyz", [10, -7, 23], degrees=True).as_matrix() @ affine[:3, :3]
    return Volume(array=volume.array, affine=affine)


def _thick_slices(volume: Volume) -> Volume:
    return Volume(array=volume.array[..., ::3], affine=volume.affine @ np.diag([1.0, 1.0, 3.0, 1.0]))


def _gantry_tilt(volume: Volume) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 2] += 0.2 * volume.spacing[2] * affine[:3, 1] / volume.spacing[1]
    return Volume(array=volume.array, affine=affine)


VARIANTS: dict[str, Callable[[Volume], Volume]] = {
    "flipped": _flipped,
    "permuted": _permuted,
    "oblique": _oblique,
    "thick slices": _thick_slices,
    "gantry tilt": _gantry_tilt,
}
"""Changes of memory order, orientation and slice distance, which a runtime may handle wrongly."""


def compare(
    checkpoint: Path,
    images: Sequence[Path],
    *,
    phantoms: Sequence[int],
    variants: bool,
    engines: Sequence[str],
    folder: Path,
) -> dict[str, Any]:
    """Export a checkpoint in float32 and compare labels on images, phantoms and their variants.

    Args:
        checkpoint: Checkpoint or run folder with a prompt table.
        images: CT files.
        phantoms: Seeds of phantoms with voxels of 3 mm.
        engines: Engines to run in float32.
        variants: Also compare every variant of each phantom and of the first image.
        folder: Folder of the bundle and of the variants.

    Returns:
        Record, ready for JSON.
    """
    where = environment()  # before the work: the commit of the loaded code
    found = checkpoints.load(checkpoint)
    request = ExportRequest(checkpoint=checkpoint, engines=tuple(engines), output=folder / "agreement.gcis")
    made = export(request)
    with comparison(static_network(found), made.folder, engines=engines) as compare_file:
        rows = [
            {"image": name, "variant": variant, **row}
            for name, variant, path in _inputs(images, phantoms, variants, folder)
            for row in compare_file(path)
        ]
    return {
        "what": "agreement",
        "environment": where,
        "checkpoint_sha256": found.sha256,
        "reference": "PyTorch float32, MONAI transforms and sliding_window_inference",
        "wanted": WANTED,
        "lowest": min(row["equal"] for row in rows),
        "rows": rows,
    }


@contextlib.contextmanager
def comparison(net: StaticGcisNet, bundle: Path, *, engines: Sequence[str]) -> Iterator[Compare]:
    """Open a bundle in every engine in float32, and yield a function that compares the labels of a file.

    Args:
        net: Network from which the bundle was exported, with prompts in the same order.
        bundle: Folder of the bundle.
        engines: Engines to run.
    """
    with contextlib.ExitStack() as stack:
        segmenters = [
            stack.enter_context(Segmenter.open(bundle, engine=engine, precision="fp32")) for engine in engines
        ]
        manifest = segmenters[0].bundle.manifest
        values = np.array([0, *(label.value for label in manifest.labels)])

        def compare_file(path: Path) -> list[dict[str, Any]]:
            volume, cached = read_volume(path), _cached(net)
            rows = []
            for restore in get_args(Restore):
                channels = reference_labels(
                    path,
                    cached,
                    preprocess=manifest.preprocess,
                    window=manifest.window,
                    restore=restore,
                )
                for segmenter in segmenters:
                    labels = segmenter.segment(volume, restore=restore, raw=True).labels
                    row = _row(volume, labels, values[channels])
                    rows.append({"engine": segmenter.engine.text, "restore": restore, **row})
            return rows

        yield compare_file


def _cached(net: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the network with a cache of its outputs, since interpolations of one file share all windows."""
    outputs: dict[bytes, Tensor] = {}

    def predict(window: Tensor) -> Tensor:
        key = hashlib.sha256(window.numpy().tobytes()).digest()
        if key not in outputs:
            outputs[key] = net(window)
        return outputs[key].clone()  # MONAI multiplies the output by weights in place

    return predict


def _row(volume: Volume, labels: npt.NDArray[Any], expected: npt.NDArray[Any]) -> dict[str, Any]:
    unequal = int(np.count_nonzero(labels != expected))
    labelled = int(np.count_nonzero((labels > 0) | (expected > 0)))
    return {
        "shape": list(volume.shape),
        "spacing_mm": [round(s, 3) for s in volume.spacing],
        "axes": "".join(nib.aff2axcodes(volume.affine)),
        "voxels": labels.size,
        "unequal": unequal,
        "equal": 1 - unequal / labels.size,
        "labelled_voxels": labelled,
        "equal_of_labelled": 1 - unequal / labelled if labelled else None,
        "structures": int(np.count_nonzero(np.unique(expected))),
    }


def _inputs(
    images: Sequence[Path], phantoms: Sequence[int], variants: bool, folder: Path
) -> Iterator[tuple[str, str, Path]]:
    """Yield name, variant and file of each comparison."""
    bases: list[tuple[str, Volume]] = []
    for image in images:
        yield image.name, "as stored", image
    for seed in phantoms:
        phantom = make_phantom(seed, spacing=(3.0, 3.0, 3.0))
        volume = Volume.from_array(phantom.ct, affine=phantom.affine)
        bases.append((f"phantom {seed}", volume))
        yield f"phantom {seed}", "as stored", _written(volume, folder / "phantom_ct.nii.gz")
    if images:
        bases.append((images[0].name, read_volume(images[0])))
    for name, volume in bases if variants else ():
        for variant, change in VARIANTS.items():
            yield name, variant, _written(change(volume), folder / "variant_ct.nii.gz")


def _written(volume: Volume, path: Path) -> Path:
    write_volume(path, volume)
    return path
