"""Build networks with seeded weights, run them as published, and export their graphs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.coarse_weights import round_weights
from benchmarks.gpu_parts.state import NotHereError
from benchmarks.published import published_sum
from gcis_runtime.spec import Shape3
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet

SEED = 20_261


class Published(nn.Module):
    """Routed network as published, which computes every block of every position, also in evaluation.

    Args:
        net: Routed network.
        embedding: Text embedding of the prompt, (text_dim,).
    """

    def __init__(self, net: GcisNet, embedding: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("embedding", embedding)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, 2, X, Y, Z)."""
        logits = self.net.route(self.embedding)  # type: ignore[arg-type]
        gates = nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        return published_sum(self.net, self.net.encoder(image), gates)


def routed(feature_size: int, *, pathways: int = 6) -> tuple[GcisNet, Tensor]:
    """Return a routed network in evaluation mode with seeded, rounded weights, and a text embedding."""
    torch.manual_seed(SEED)
    net = GcisNet(NetworkConfig(feature_size=feature_size, pathways=pathways)).eval()
    round_weights(net)
    return net, torch.randn(net.config.text_dim, generator=torch.Generator().manual_seed(SEED))


def static(net: GcisNet, embedding: Tensor) -> StaticGcisNet:
    """Return the static network of one embedding."""
    return StaticGcisNet.resolved(net, [net.resolve(embedding)]).eval()


def gflop(net: nn.Module, window: Tensor) -> float:
    """Return 1e9 operations in convolutions and matrix products of a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(window)
    return float(counter.get_total_flops()) / 1e9


class Graphs:
    """ONNX graphs by name: from `--graphs`, from an earlier run, or exported on demand.

    Args:
        brought: Folder that `--prepare` wrote on another machine; None without one.
        kept: Folder of exported graphs.
    """

    def __init__(self, brought: Path | None, kept: Path) -> None:
        self._folders = [folder for folder in (brought, kept) if folder is not None]
        self._kept = kept

    def get(
        self, name: str, network: Callable[[], StaticGcisNet], roi: Shape3, batch: int, precision: str
    ) -> bytes:
        """Return the contents of an ONNX file.

        Args:
            name: Name of the graph, which ends with the precision.
            network: Returns the network on the CPU; called only for an export.
            roi: Window, voxels along X, Y, Z.
            batch: Windows per batch.
            precision: `"fp32"`, `"fp16"` or `"bf16"`.

        Raises:
            NotHereError: The graph is in neither folder, and onnx or onnxscript is missing.
        """
        for folder in self._folders:
            if (folder / f"{name}.onnx").exists():
                return (folder / f"{name}.onnx").read_bytes()
        lacking = [p for p in ("onnx", "onnxscript") if importlib.util.find_spec(p) is None]
        if lacking:
            raise NotHereError(f"needs {' and '.join(lacking)}, or {name}.onnx from --prepare in --graphs")
        data = (
            _written(network(), roi, batch)
            if precision == "fp32"
            else _typed(
                self.get(name.removesuffix(precision) + "fp32", network, roi, batch, "fp32"), precision
            )
        )
        self._kept.mkdir(parents=True, exist_ok=True)
        (self._kept / f"{name}.onnx").write_bytes(data)
        return data


def _written(network: StaticGcisNet, roi: Shape3, batch: int) -> bytes:
    from gcis_export.graph.network import ExportNet  # noqa: PLC0415 (optional package)
    from gcis_export.graph.write import to_onnx  # noqa: PLC0415

    data: bytes = to_onnx(ExportNet(network, roi, batch)).SerializeToString()
    return data


def _typed(graph: bytes, precision: str) -> bytes:
    import onnx  # noqa: PLC0415 (optional package)

    from gcis_export.precision.typed import typed_graph  # noqa: PLC0415

    model = typed_graph(onnx.load_from_string(graph), "fp16" if precision == "fp16" else "bf16")
    data: bytes = model.SerializeToString()
    return data
