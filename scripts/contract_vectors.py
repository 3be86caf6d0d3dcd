"""Write the vectors of `docs/contract/`: inputs and results of each step from an image to labels.

`python -m scripts.contract_vectors` rewrites the folder. `docs/bundle_format.md` describes the files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gcis_runtime.grids.box import Box
from gcis_runtime.grids.preprocess import NetworkInput, preprocess
from gcis_runtime.images.nifti import label_image
from gcis_runtime.images.volume import Volume
from gcis_runtime.sliding.accumulator import Tile
from gcis_runtime.sliding.blend import blend_tiles
from gcis_runtime.sliding.foreground_crop import foreground_box, place_windows
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.native_grid import NativeGridMapper
from gcis_runtime.sliding.plan import WindowPlan, WindowReader, pad_to_plan, plan_windows, window_weights
from gcis_runtime.sliding.schedule import make_schedule
from gcis_runtime.spec import Foreground, PreprocessSpec, Shape3, WindowSpec
from gcis_runtime.system.worker_threads import ALONE

FOLDER = Path(__file__).parents[1] / "docs" / "contract"
INDEX = "index.json"
Files = dict[str, bytes]
Entry = dict[str, Any]

_WINDOW = WindowSpec(patch_size=(64, 64, 64))
_VALUES = (3, 300)
_STAND_IN = {"gain": (2.0, -3.0), "threshold": (0.5, 0.375), "tilt": (0.03125, -0.015625)}
"""Network of the case `segment`, in float32: `gain * (v - threshold) + tilt * (i - 31.5)` for the voxel with
value `v` and index `i` along X in its window."""


def vectors() -> Files:
    """Return the content of every file of the folder by name; equal on every call."""
    files: Files = {}
    cases = {
        "preprocess": [_preprocess_case(files, name) for name in _volumes()],
        "plans": [_plan_case(shape, window, within) for shape, window, within in _PLANS],
        "weights": [_weights_case(files, window, planes) for window, planes in _WEIGHTS],
        "restore": [_restore_case(files, name) for name in ("oblique", "sheared", "aligned", "same")],
        "segment": [_segment_case(files)],
        "nifti": [_nifti_case(files, wide=wide) for wide in (False, True)],
    }
    index = {"schema": "gcis-contract", "version": 1, **cases}
    return {INDEX: (json.dumps(index, indent=1) + "\n").encode(), **files}


def main() -> None:
    """Rewrite the folder."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    for name, data in vectors().items():
        (FOLDER / name).write_bytes(data)


_PLANS: tuple[tuple[Shape3, WindowSpec, Box | None], ...] = (
    ((64, 64, 64), _WINDOW, None),
    ((40, 64, 97), _WINDOW, None),
    ((150, 65, 70), _WINDOW, None),
    ((100, 90, 200), WindowSpec(patch_size=(96, 64, 128), overlap=0.25), None),
    ((65, 30, 31), WindowSpec(patch_size=(64, 64, 64), overlap=0.7), None),
    ((120, 90, 80), _WINDOW, (slice(10, 95), slice(70, 90), slice(0, 33))),
)
_WEIGHTS = ((_WINDOW, (0, 31)), (WindowSpec(patch_size=(64, 96, 64), sigma_scale=0.25), (32,)))
"""Windows, and the planes along X that are stored."""


def _volumes() -> dict[str, tuple[Volume, PreprocessSpec]]:
    """Return an image and its preprocessing per case."""
    turned = (
        np.array([[1.0, 8, -4], [4, -4, -7], [8, 1, 4]]) / 9 * (1.5, 2.5, 4.0)
    )  # a rotation and voxel sizes
    tilted = np.array([[-2.0, 0, 0], [0, -2.0, 0.9], [0, 0, 3.0]])
    body = np.full((14, 12, 9), -1000, dtype=np.int16)
    body[4:9, 3:8, 2:6] = _smooth((5, 5, 4), 5)
    ras = PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0))
    return {
        "oblique": (_volume(_smooth((11, 13, 7), 1), turned), ras),
        "aligned": (
            _volume(_smooth((12, 10, 9), 2), np.diag([-2.0, -2.0, 3.0])),
            PreprocessSpec(orientation="RAS", spacing=(4.0, 1.0, 3.0), intensity_window=(-1000.0, 1000.0)),
        ),
        "sheared": (_volume(_smooth((9, 10, 8), 3), tilted), ras),
        "same": (_volume(_smooth((7, 6, 5), 4), np.diag([2.0, -2.0, 2.0])), ras),
        "file-axes": (
            _volume(_smooth((7, 6, 5), 6), turned),
            PreprocessSpec(orientation=None, spacing=None),
        ),
        "foreground": (
            _volume(body, np.diag([3.0, 3.0, 4.0])),
            PreprocessSpec(orientation="LPS", spacing=(2.0, 2.0, 2.0), foreground=Foreground(margin=1)),
        ),
    }


def _volume(array: NDArray[np.int16], linear: NDArray[Any]) -> Volume:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, (12.5, -30.25, 100.0)
    return Volume.from_array(array, affine=affine)


def _smooth(shape: Shape3, seed: int) -> NDArray[np.int16]:
    """Return an image from -900 to 900 HU without noise."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    waves = np.sin(0.9 * x + seed) + np.sin(0.7 * y - 0.4 * x) + np.sin(1.1 * z + 0.3 * y)
    return np.asarray(np.round(300 * waves), dtype=np.int16)


def _store(files: Files, name: str, array: NDArray[Any], *, fastest: Literal["x", "z"]) -> Entry:
    """Add an array to the files, little-endian, and return its entry."""
    kinds = {"i": "int16", "f": "float32", "u": "uint16"}
    kind = kinds[array.dtype.kind]
    order: Literal["F", "C"] = "F" if fastest == "x" else "C"
    files[name] = array.astype(np.dtype(kind).newbyteorder("<")).tobytes(order=order)
    return {"file": name, "type": kind, "shape": list(array.shape), "fastest": fastest}


def _numbers(matrix: NDArray[np.float64] | None) -> list[list[float]] | None:
    return None if matrix is None else [[float(value) for value in row] for row in matrix]


def _ranges(box: Box | None) -> list[list[int]] | None:
    return None if box is None else [[part.start, part.stop] for part in box]


def _plain(value: Any) -> Any:
    """Return a specification as in the manifest."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _preprocess_case(files: Files, name: str) -> Entry:
    volume, spec = _volumes()[name]
    image = preprocess(volume, spec)
    grid = image.transform
    return {
        "name": name,
        "preprocess": _plain(spec),
        "affine": _numbers(volume.affine),
        "image": _store(files, f"{name}.image", volume.array, fastest="x"),
        "flipped": [axis in grid.flips for axis in range(3)],
        "order": list(grid.order),
        "network_affine": _numbers(grid.affine),
        "to_network": None if grid.to_network is None else _numbers(grid.to_network.matrix),
        "to_file": None if grid.to_file is None else _numbers(grid.to_file.matrix),
        "input": _store(files, f"{name}.input", image.array, fastest="z"),
        "foreground": _ranges(foreground_box(image, spec.crop)) if spec.crop else None,
    }


def _plan_case(shape: Shape3, window: WindowSpec, within: Box | None) -> Entry:
    return {"shape": list(shape), "window": _plain(window), "within": _ranges(within)} | _described(
        plan_windows(shape, window, within=within)
    )


def _described(plan: WindowPlan) -> Entry:
    starts = [list(start) for start in plan.starts]
    return {"before": list(plan.before), "padded": list(plan.padded), "axis": plan.axis, "starts": starts}


def _weights_case(files: Files, window: WindowSpec, planes: Sequence[int]) -> Entry:
    """Store planes of the blending weights."""
    weights, size = window_weights(window), "x".join(map(str, window.patch_size))
    stored = [_store(files, f"weights-{size}.{x}", weights[x : x + 1], fastest="z") for x in planes]
    return {"window": _plain(window), "first": list(planes), "planes": stored}


def _logits(shape: Shape3) -> NDArray[np.float32]:
    """Return logits of two structures, (2, X, Y, Z), which overlap."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    first = 3 * np.sin(0.8 * x + 0.3) + 2 * np.cos(0.6 * y) - 0.2 * z
    second = 3 * np.cos(0.7 * z + 0.2 * x) + 2 * np.sin(0.5 * y + 1) - 0.1 * x
    return np.round(np.stack([first, second]) * 1024).astype(np.float32) / np.float32(1000)


def _sink(image: NetworkInput) -> LabelSink:
    x, y, z = image.source.shape
    return LabelSink(transform=image.transform, shape=(x, y, z), values=_VALUES, masks=False)


def _restore_case(files: Files, name: str) -> Entry:
    image = preprocess(*_volumes()[name])
    shape = image.transform.shape
    logits, plan = _logits(shape), plan_windows(shape, _WINDOW)
    padded = np.stack([pad_to_plan(logit, plan, 0.0) for logit in logits])
    entry: Entry = {
        "preprocess": name,
        "values": list(_VALUES),
        "logits": _store(files, f"{name}.logits", logits, fastest="z"),
    }
    for restore in ("smooth", "nearest"):
        sink = _sink(image)
        mapper = NativeGridMapper(
            plan=plan, transform=image.transform, values=_VALUES, restore=restore, sink=sink
        )
        mapper.add(Tile(start=(0, 0, 0), logits=padded))
        entry[restore] = _store(files, f"{name}.{restore}", sink.labels, fastest="x")
    return entry


def _stand_in(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits (1, 2, X, Y, Z) of a window (1, 1, X, Y, Z); see `_STAND_IN`."""
    gain, threshold, tilt = (np.array(_STAND_IN[key], np.float32) for key in ("gain", "threshold", "tilt"))
    index = np.arange(window.shape[2], dtype=np.float32) - np.float32(31.5)
    parts = [
        g * (window[0, 0] - t) + (s * index)[:, None, None]
        for g, t, s in zip(gain, threshold, tilt, strict=True)
    ]
    return np.stack(parts)[None].astype(np.float32)


def _segment_case(files: Files) -> Entry:
    """Store a whole segmentation with several windows and a foreground crop."""
    array = _smooth((46, 9, 6), 7)
    array[:, :2] = -1000
    volume = _volume(array, np.array([[-2.9, 0.2, 0.0], [0.2, 2.5, 0.4], [0.0, -0.5, 3.1]]))
    spec = PreprocessSpec(orientation="RAS", spacing=(1.8, 2.0, 2.0), foreground=Foreground(margin=1))
    image = preprocess(volume, spec)
    layout = place_windows(image, spec, _WINDOW, window_weights(_WINDOW))
    sink = _sink(image)
    mapper = NativeGridMapper(
        plan=layout.plan, transform=image.transform, values=_VALUES, restore="smooth", sink=sink
    )
    blended = np.zeros((2, *layout.plan.padded), dtype=np.float32)
    reader = WindowReader(image.box, layout.plan, padding_value=0.0)
    for tile in blend_tiles(
        make_schedule(layout.plan), reader, layout.weights, _stand_in, channels=(0, 1), workers=ALONE
    ):
        mapper.add(tile)
        blended[_part(tile.start, tile.logits.shape)] = tile.logits
    inner = blended[_part(layout.plan.before, (2, *layout.plan.shape))]
    return {
        "preprocess": _plain(spec),
        "window": _plain(_WINDOW),
        "affine": _numbers(volume.affine),
        "image": _store(files, "segment.image", volume.array, fastest="x"),
        "foreground": _ranges(foreground_box(image, Foreground(margin=1))),
        "network": {key: list(values) for key, values in _STAND_IN.items()},
        "values": list(_VALUES),
        **_described(layout.plan),
        "logits": _store(files, "segment.logits", inner, fastest="z"),
        "smooth": _store(files, "segment.smooth", sink.labels, fastest="x"),
    }


def _part(start: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), *(slice(s, s + n) for s, n in zip(start, shape[1:], strict=True)))


def _nifti_case(files: Files, *, wide: bool) -> Entry:
    """Store the header of an image, and the header of its label map with the four bytes behind it."""
    volume, _ = _volumes()["oblique"]
    source = nib.Nifti1Image(volume.array, volume.affine)
    source.set_qform(volume.affine, code=1)
    source.set_sform(volume.affine, code=2)
    source.header["descrip"], source.header["cal_max"] = b"a CT", 300
    source.header.set_xyzt_units("mm", "sec")
    source.header.set_slope_inter(1, 0)
    source.update_header()
    read = Volume(array=volume.array, affine=source.affine, header=source.header)
    label = label_image(np.zeros(volume.shape, dtype=np.uint16 if wide else np.uint8), like=read)
    label.update_header()
    label.header.set_data_offset(352)
    name = "wide" if wide else "narrow"
    files[f"{name}.image-header"] = source.header.binaryblock
    files[f"{name}.label-header"] = label.header.binaryblock
    return {
        "image": f"{name}.image-header",
        "label": f"{name}.label-header",
        "type": label.get_data_dtype().name,
    }


if __name__ == "__main__":
    main()
