"""The graph that export writes against what the exporter gives by itself: operators, bytes, time, layers."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxscript.optimizer
import torch

from benchmarks.environment import environment
from benchmarks.turns import Say, alone, take_turns
from gcis_export.graph.network import ExportNet
from gcis_export.graph.optimize import FORBIDDEN, node_types
from gcis_export.graph.write import INPUT, OPSET, OUTPUT, to_onnx
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import StaticGcisNet
from gcis_train.nets.pathway import Pathway

RAW, FOLDED, OURS = "exporter alone", "exporter, constants folded", "gcis"
_FOLD = 1 << 30  # elements: fold everything


def compare(
    *, feature_size: int, roi: int, batches: tuple[int, ...], rounds: int, threads: int, say: Say
) -> dict[str, Any]:
    """Export one prompt with seeded weights in three ways and time the graphs.

    Args:
        feature_size: Channels of the first stage.
        roi: Window, voxels along each axis.
        batches: Batches that our graph is also written for, beside 1.
        rounds: Turns of each graph in each engine.
        threads: CPU threads.
        say: Told of each step.

    Returns:
        The record, ready for JSON.
    """
    network = seeded([Pathway((0,) * 7)], feature_size)
    weights = 4 * sum(p.numel() for p in network.parameters())
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path] = {}
        rows: dict[str, Any] = {}
        for name, make in _ways(network, roi, batches).items():
            say(f"exporting: {name}")
            started = time.perf_counter()
            model = make()
            rows[name] = describe(model, weights) | {
                "export_seconds": round(time.perf_counter() - started, 1)
            }
            files[name] = Path(folder, f"{len(files)}.onnx")
            files[name].write_bytes(model.SerializeToString())
            del model
            rows[name]["tensorrt_rtx"] = alone(layers_and_build, str(files[name]))
            say(f"{name}: {rows[name]}")
        for name, engines in take_turns(files, rounds=rounds, threads=threads, say=say).items():
            rows[name]["engines"] = engines
    return {
        "what": "graph" if (feature_size, roi) == (48, 96) else f"graph-{feature_size}-{roi}",
        "environment": environment(),
        "feature_size": feature_size,
        "roi": roi,
        "prompts": 1,
        "weights_bytes": weights,
        "rounds": rounds,
        "threads": threads,
        "note": "the machine was shared, so compare CPU seconds",
        "rows": rows,
    }


def seeded(pathways: list[Pathway], feature_size: int, *, blocks: int = 1) -> StaticGcisNet:
    """Return a static network with seeded weights, and at least so many blocks at each position."""
    torch.manual_seed(20_261)
    blocks = max(blocks, 1 + max(max(p.choices) for p in pathways))
    return StaticGcisNet(NetworkConfig(feature_size=feature_size, pathways=blocks), pathways).eval()


def describe(model: onnx.ModelProto, weights: int) -> dict[str, Any]:
    """Count a graph's operators and bytes."""
    types = node_types(model)
    return {
        "nodes": sum(types.values()),
        "bytes": model.ByteSize(),
        "bytes_per_weight_byte": round(model.ByteSize() / weights, 4),
        "forbidden": {name: types[name] for name in sorted(FORBIDDEN) if types[name]},
        "operators": dict(types.most_common()),
    }


def layers_and_build(file: str) -> dict[str, Any]:
    """Parse a graph with TensorRT-RTX and build an engine, without a GPU."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return {"unavailable": "tensorrt_rtx is not installed"}
    import tensorrt_rtx as trt  # noqa: PLC0415 (in a process of its own)

    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(Path(file).read_bytes()):
        return {"unavailable": str(parser.get_error(0))[:200]}
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    started = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    return {
        "version": str(trt.__version__),
        "layers": network.num_layers,
        "build_seconds": round(time.perf_counter() - started, 1),
        "engine_bytes": None if plan is None else plan.nbytes,
    }


def _ways(
    network: StaticGcisNet, roi: int, batches: tuple[int, ...]
) -> dict[str, Callable[[], onnx.ModelProto]]:
    shape = (roi, roi, roi)
    ways: dict[str, Callable[[], onnx.ModelProto]] = {
        RAW: lambda: _raw(network, roi),
        FOLDED: lambda: onnxscript.optimizer.optimize(
            _raw(network, roi), onnx_shape_inference=True, input_size_limit=_FOLD, output_size_limit=_FOLD
        ),
        OURS: lambda: to_onnx(ExportNet(network, shape)),
    }
    for batch in batches:
        ways[f"{OURS}, batch {batch}"] = lambda batch=batch: to_onnx(ExportNet(network, shape, batch))  # type: ignore[misc]
    return ways


def _raw(network: StaticGcisNet, roi: int) -> onnx.ModelProto:
    """Return what the exporter makes of the network as it is trained, MONAI's transformer in it."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network,
                (torch.zeros(1, 1, roi, roi, roi),),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    finally:
        logging.disable(logging.NOTSET)
    model: onnx.ModelProto = program.model_proto
    return model
