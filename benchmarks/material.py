"""Write the inputs of comparisons: a network as a bundle with an int8 graph, and a tiled phantom."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from gcis_export.bundle.labels import make_labels
from gcis_export.bundle.writer import NOTICE, staged, write_graph, write_manifest
from gcis_export.gate.check_windows import calibration_windows
from gcis_export.graph.network import ExportNet
from gcis_export.graph.write import INPUT, OUTPUT, to_onnx
from gcis_export.precision.variants import convert
from gcis_runtime.bundles.manifest import Engine, Manifest, PromptPathway, Provenance, Tensor
from gcis_runtime.demo.phantom import make_phantom
from gcis_runtime.images.nifti import write_volume
from gcis_runtime.images.volume import Volume
from gcis_runtime.spec import PreprocessSpec, Shape3, WindowSpec
from gcis_train.nets.network import StaticGcisNet


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """Static network with its prompts, preprocessing and windows.

    Attributes:
        net: Static network with one pathway per prompt.
        prompts: Prompts, in the order of the output channels.
        preprocess: Preprocessing.
        window: Size and overlap of windows.
    """

    net: StaticGcisNet
    prompts: tuple[str, ...]
    preprocess: PreprocessSpec
    window: WindowSpec


def write_bundle(network: Network, folder: Path, *, calibration: int) -> onnx.ModelProto:
    """Write a network as a bundle with a float32 and an int8 graph, without the parity gate.

    The parity gate of `gcis-export` refuses graphs that differ too much; benchmarks report the difference.

    Args:
        network: Network to write.
        folder: Folder of the bundle.
        calibration: Windows of each of two phantoms that calibrate INT8; 0 writes only the float32 graph.

    Returns:
        Float32 graph.
    """
    model = to_onnx(ExportNet(network.net, network.window.patch_size))
    with staged(folder) as temporary:
        written = [write_graph(temporary, model, weights_dtype="float32")]
        if calibration:
            windows = calibration_windows(
                (), spec=network.preprocess, window=network.window, each=calibration
            )
            quantised = convert(model, "int8", calibration=windows)
            written.append(write_graph(temporary, quantised, weights_dtype="int8", precision="int8"))
        roi, count = network.window.patch_size, len(network.prompts)
        engines = tuple(
            Engine(
                backend=backend, precision=graph.precision, file=graph.file, graph=graph.file,
                backend_version="", device="cpu",
            )
            for graph, _ in written
            for backend in ("onnx", "openvino")
        )  # fmt: skip
        manifest = Manifest(
            name="benchmark",
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            notice=NOTICE,
            preprocess=network.preprocess,
            window=network.window,
            labels=make_labels(network.prompts),
            pathways=tuple(
                PromptPathway(prompt=prompt, path_selection=pathway.one_based)
                for prompt, pathway in zip(network.prompts, network.net.pathways, strict=True)
            ),
            input=Tensor(name=INPUT, shape=(1, 1, *roi)),
            output=Tensor(name=OUTPUT, shape=(1, count, *roi)),
            graphs=tuple(graph for graph, _ in written),
            engines=engines,
            files=tuple(entry for _, entry in written),
            parity=(),
            provenance=Provenance(checkpoint_sha256="0" * 64, text_model="", text_weights="none"),
            versions={},
        )
        write_manifest(temporary, manifest)
    return model


def write_tiled_phantom(path: Path, network: Network, windows: Shape3, *, seed: int) -> None:
    """Write a CT on the network's grid with a given number of windows, tiled from a phantom.

    Args:
        path: NIfTI file to write.
        network: Network that determines voxel size, window and overlap.
        windows: Number of windows along X, Y, Z.
        seed: Seed of the phantom.
    """
    spacing = network.preprocess.spacing or (1.0, 1.0, 1.0)
    phantom = make_phantom(seed, spacing=spacing)
    steps = [max(1, int(r * (1 - network.window.overlap))) for r in network.window.patch_size]
    shape = [r + s * (n - 1) for r, s, n in zip(network.window.patch_size, steps, windows, strict=True)]
    affine = np.diag([*spacing, 1.0])
    write_volume(path, Volume.from_array(_middle(phantom.ct, shape), affine=affine))


def _middle(array: npt.NDArray[np.int16], shape: list[int]) -> npt.NDArray[np.int16]:
    """Return the centre of an array, which is repeated along axes that are too short."""
    tiles = [-(-wanted // have) for wanted, have in zip(shape, array.shape, strict=True)]
    tiled = np.tile(array, tiles)
    starts = [(have - wanted) // 2 for wanted, have in zip(shape, tiled.shape, strict=True)]
    cut = tuple(slice(start, start + wanted) for start, wanted in zip(starts, shape, strict=True))
    return np.ascontiguousarray(tiled[cut])
