"""Run one peer in a separate process, from an image in memory to its labels.

`python -m benchmarks.peers.run` reads a `Task` as JSON from stdin and prints the measurements as JSON.
Weights are random with a fixed seed: time and memory do not depend on them, and labels are meaningless.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_runtime.system.memory import peak_memory_bytes

SEED = 20_261
CLASSES = 2
_LOW, _HIGH = PreprocessSpec().intensity_window


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """Work of one process.

    Attributes:
        peer: Name in `PEERS`.
        image: `.npy` file of HU, (X, Y, Z) int16, with the voxel size of the network's grid.
        bundle: gCIS bundle for that voxel size.
        feature_size: Feature size of gCIS and SwinUNETR.
        roi: Side of the window in voxels.
        overlap: Overlap of windows.
        threads: CPU threads.
    """

    peer: str
    image: str
    bundle: str
    feature_size: int
    roi: int
    overlap: float
    threads: int

    @property
    def window(self) -> WindowSpec:
        """Windows with Gaussian weights."""
        return WindowSpec(patch_size=(self.roi,) * 3, overlap=self.overlap)


Labels = NDArray[np.uint8]
Run = Callable[[NDArray[np.int16]], Labels]
Made = tuple[Run, int]
"""Function that labels an image of HU, and the number of parameters of its network."""


def measure(task: Task) -> dict[str, Any]:
    """Load a peer, run it once and return seconds and peak memory, ready for JSON.

    `seconds` is the time from HU in memory to labels in memory, without files and start.
    """
    image = np.load(task.image)
    started = time.perf_counter()
    run, parameters = PEERS[task.peer].make(task)
    ready, used = time.perf_counter(), time.process_time()
    labels = run(image)
    seconds = time.perf_counter() - ready
    if labels.shape != image.shape:
        raise ValueError(f"{task.peer}: labels of shape {labels.shape} for an image of shape {image.shape}")
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(time.process_time() - used, 3),
        "start_seconds": round(ready - started, 3),
        "parameters": parameters,
        "peak_memory_mb": round((peak_memory_bytes() or 0) / 1e6),
    }


def _gcis(engine: str, precision: str) -> Callable[[Task], Made]:
    """Return the gCIS runtime, without PyTorch."""

    def make(task: Task) -> Made:
        from gcis_runtime.images.volume import Volume  # noqa: PLC0415
        from gcis_runtime.pipeline.segmenter import Segmenter  # noqa: PLC0415 (not in the peers' processes)

        segmenter = Segmenter.open(task.bundle, engine=engine, precision=precision, threads=task.threads)
        spacing = segmenter.bundle.manifest.preprocess.spacing or (1.0, 1.0, 1.0)

        def run(image: NDArray[np.int16]) -> Labels:
            labels = segmenter.segment(Volume(array=image, affine=np.diag([*spacing, 1.0]))).labels
            return labels.astype(np.uint8, copy=False)

        return run, _parameters_of_file(segmenter.bundle.folder / "model.onnx")

    return make


def _gcis_pytorch(task: Task) -> Made:
    """Return the static gCIS network in PyTorch with the sliding window of MONAI."""
    import torch  # noqa: PLC0415 (not in the runtime's process)

    from benchmarks.graphs import seeded  # noqa: PLC0415
    from gcis_train.nets.pathway import Pathway  # noqa: PLC0415

    torch.set_num_threads(task.threads)
    net = seeded([Pathway((0,) * 7)], task.feature_size)
    return _sliding(net, task, lambda logits: logits[0, 0] > 0), _parameters(net)


def _swinunetr(task: Task) -> Made:
    """Return SwinUNETR of MONAI with the sliding window of MONAI."""
    import torch  # noqa: PLC0415 (not in the runtime's process)
    from monai.networks.nets.swin_unetr import SwinUNETR  # noqa: PLC0415

    torch.set_num_threads(task.threads)
    torch.manual_seed(SEED)
    net = SwinUNETR(in_channels=1, out_channels=CLASSES, feature_size=task.feature_size).eval()
    return _sliding(net, task, lambda logits: logits[0].argmax(0)), _parameters(net)


def _sliding(net: Any, task: Task, decide: Callable[[Any], Any]) -> Run:
    """Return a function that applies MONAI's sliding window to an image."""
    import torch  # noqa: PLC0415 (not in the runtime's process)
    from monai.inferers.utils import sliding_window_inference  # noqa: PLC0415

    def run(image: NDArray[np.int16]) -> Labels:
        with torch.no_grad():
            logits = sliding_window_inference(
                torch.from_numpy(_scaled(image))[None, None],
                roi_size=task.window.patch_size,
                sw_batch_size=1,
                predictor=net,
                overlap=task.overlap,
                mode="gaussian",
                sigma_scale=task.window.sigma_scale,
            )
            labels: Labels = decide(logits).to(torch.uint8).numpy()
        return labels

    return run


def _nnunet(build: Callable[[], Any]) -> Callable[[Task], Made]:
    """Return the predictor of nnU-Net around a given network, without mirroring."""

    def make(task: Task) -> Made:
        import torch  # noqa: PLC0415 (not in the runtime's process)
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: PLC0415
        from nnunetv2.utilities.plans_handling.plans_handler import (  # noqa: PLC0415
            ConfigurationManager,
            PlansManager,
        )

        torch.set_num_threads(task.threads)
        torch.manual_seed(SEED)
        net = build().eval()
        predictor = nnUNetPredictor(
            tile_step_size=1 - task.overlap, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
        )
        predictor.manual_initialization(
            net,
            PlansManager({"dataset_name": "none", "plans_name": "none"}),
            ConfigurationManager(
                {"patch_size": list(task.window.patch_size), "architecture": {}}
            ),  # the network is given
            None,
            {"labels": {"background": 0, "structure": 1}},
            "none",
            None,
        )

        def run(image: NDArray[np.int16]) -> Labels:
            logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(_scaled(image))[None])
            labels: Labels = logits.argmax(0).to(torch.uint8).numpy()
            return labels

        return run, _parameters(net)

    return make


def _plain_unet() -> Any:
    """Return the plain U-Net of nnU-Net with six stages, as its planner chooses for CT."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet  # noqa: PLC0415

    return PlainConvUNet(**_stages(), n_conv_per_stage=2, n_conv_per_stage_decoder=2)


def _residual_unet() -> Any:
    """Return the residual encoder U-Net of nnU-Net, size M."""
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet  # noqa: PLC0415

    return ResidualEncoderUNet(**_stages(), n_blocks_per_stage=(1, 3, 4, 6, 6, 6), n_conv_per_stage_decoder=1)


def _stages() -> dict[str, Any]:
    from torch import nn  # noqa: PLC0415 (not in the runtime's process)

    return {
        "input_channels": 1,
        "num_classes": CLASSES,
        "n_stages": 6,
        "features_per_stage": (32, 64, 128, 256, 320, 320),
        "conv_op": nn.Conv3d,
        "kernel_sizes": 3,
        "strides": (1, 2, 2, 2, 2, 2),
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peer:
    """Software to measure.

    Attributes:
        make: Loads the peer and returns the function that labels an image.
        needs: Packages that the peer needs.
    """

    make: Callable[[Task], Made]
    needs: tuple[str, ...]


_MONAI = ("torch", "monai")
_NNUNET = ("torch", "nnunetv2", "dynamic_network_architectures")

PEERS = {
    "gcis-run, OpenVINO fp32": Peer(make=_gcis("openvino", "fp32"), needs=("openvino",)),
    "gcis-run, OpenVINO bf16": Peer(make=_gcis("openvino", "bf16"), needs=("openvino",)),
    "gcis-run, ONNX Runtime fp32": Peer(make=_gcis("onnx", "fp32"), needs=("onnxruntime",)),
    "gCIS in PyTorch, MONAI sliding window": Peer(make=_gcis_pytorch, needs=_MONAI),
    "MONAI SwinUNETR, its sliding window": Peer(make=_swinunetr, needs=_MONAI),
    "nnU-Net plain U-Net, its predictor": Peer(make=_nnunet(_plain_unet), needs=_NNUNET),
    "nnU-Net residual encoder M, its predictor": Peer(make=_nnunet(_residual_unet), needs=_NNUNET),
}


def _scaled(image: NDArray[np.int16]) -> NDArray[np.float32]:
    """Scale HU to [0, 1], the input of every peer's network."""
    scaled = (image.astype(np.float32) - np.float32(_LOW)) / np.float32(_HIGH - _LOW)
    return np.clip(scaled, 0, 1, out=scaled)


def _parameters(net: Any) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _parameters_of_file(path: Any) -> int:
    """Return the size of a graph's file in float32 values: its number of weights within a percent."""
    return int(path.stat().st_size) // 4


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # peers print
        found = measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Task))
    sys.stdout.write(msgspec.json.encode(found).decode())
