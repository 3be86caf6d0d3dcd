"""Networks with seeded weights, the published way of running them, and graphs of them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_parts.state import NotHereError
from benchmarks.routing_step import published_sum
from gcis_runtime.spec import Shape3
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.weights.published import published_name

SEED = 20_261
_DATA = Path(__file__).parents[2] / "tests" / "data" / "conformance"


class Published(nn.Module):
    """The routed network as published: at evaluation too every block of every position is computed.

    Args:
        net: The routed network.
        embedding: (text_dim,) of the prompt.
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
    """Return a routed network with seeded weights, in evaluation mode, and an embedding."""
    torch.manual_seed(SEED)
    net = GcisNet(NetworkConfig(feature_size=feature_size, pathways=pathways)).eval()
    return net, torch.randn(net.config.text_dim, generator=torch.Generator().manual_seed(SEED))


def static(net: GcisNet, embedding: Tensor) -> StaticGcisNet:
    """Return the static network of one embedding."""
    return StaticGcisNet.resolved(net, [net.resolve(embedding)]).eval()


def gflop(net: nn.Module, window: Tensor) -> float:
    """Count a forward pass's operations in convolutions and matrix products, in 1e9."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(window)
    return float(counter.get_total_flops()) / 1e9


class Conformance:
    """A conformance case: the static network with the recipe's weights, an image, golden answers.

    Args:
        name: `"small"` or `"two_pathways"`.
        prompts: Only the first so many.
    """

    def __init__(self, name: str, *, prompts: int | None = None) -> None:
        recipe = _recipe()
        info = json.loads((_DATA / f"case_{name}.json").read_text())
        net = GcisNet(NetworkConfig(feature_size=info["feature_size"], pathways=info["pathways"])).eval()
        weights = recipe.state_dict(info["routed_shapes"], info["seed"])
        state = net.state_dict()
        for ours in state:
            theirs = published_name(ours, single=False)
            if theirs in weights:
                state[ours] = torch.from_numpy(weights[theirs])
        net.load_state_dict(state)
        self.prompts = prompts or len(info["path_selection_one_based"])
        embeddings = [torch.from_numpy(recipe.prompt_embedding(i, info["seed"])) for i in range(self.prompts)]
        self.static = StaticGcisNet.resolved(net, [net.resolve(e) for e in embeddings]).eval()
        self.image: NDArray[np.float32] = recipe.image(info["roi"], info["batch"], info["seed"])
        self._golden = dict(np.load(_DATA / f"case_{name}.npz"))

    def compare(self, logits: NDArray[np.float32]) -> dict[str, Any]:
        """Compare logits (B, prompts, X, Y, Z) with the published network's answers."""
        golden = [self._golden[f"logits_{i}"] for i in range(self.prompts)]
        expected = np.stack([x[:, 1] - x[:, 0] for x in golden], axis=1)
        shape = (self.image.shape[0], *self.image.shape[2:])
        size = int(np.prod(shape))
        masks = [np.unpackbits(self._golden[f"foreground_{i}"])[:size] for i in range(self.prompts)]
        foreground = np.stack([m.reshape(shape).astype(bool) for m in masks], axis=1)
        off = float(np.abs(logits[..., ::4, ::4, ::4] - expected).max())
        return {
            "max_difference": off,
            "relative": off / float(np.abs(expected).max()),
            "labels_equal": float(np.mean((logits > 0) == foreground)),
        }


class Graphs:
    """ONNX graphs by name: brought along, kept from a former run, or exported now.

    Args:
        brought: A folder that `--prepare` wrote on another machine.
        kept: Where exported graphs are kept.
    """

    def __init__(self, brought: Path | None, kept: Path) -> None:
        self._folders = [folder for folder in (brought, kept) if folder is not None]
        self._kept = kept

    def get(
        self, name: str, network: Callable[[], StaticGcisNet], roi: Shape3, batch: int, precision: str
    ) -> bytes:
        """Return a graph's file.

        Args:
            name: Its name, which ends with the precision.
            network: Gives the network on the CPU, where it has to be exported.
            roi: Window.
            batch: Windows at once.
            precision: `"fp32"`, `"fp16"` or `"bf16"`.

        Raises:
            NotHereError: It was not brought, and cannot be written here.
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
    from gcis_export.graph.network import ExportNet  # noqa: PLC0415 (only where onnx is)
    from gcis_export.graph.write import to_onnx  # noqa: PLC0415

    data: bytes = to_onnx(ExportNet(network, roi, batch)).SerializeToString()
    return data


def _typed(graph: bytes, precision: str) -> bytes:
    import onnx  # noqa: PLC0415 (only where it is)

    from gcis_export.precision.typed import typed_graph  # noqa: PLC0415

    model = typed_graph(onnx.load_from_string(graph), "fp16" if precision == "fp16" else "bf16")
    data: bytes = model.SerializeToString()
    return data


def _recipe() -> Any:
    spec = importlib.util.spec_from_file_location(
        "conformance_recipe", _DATA.parents[1] / "support" / "recipe.py"
    )
    if spec is None or spec.loader is None:
        raise NotHereError(f"{_DATA} is not there: run from a checkout")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
