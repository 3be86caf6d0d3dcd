"""Measure latency per window of the published network, one pathway in PyTorch, and each engine (`ladder`)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.conformance import Conformance
from benchmarks.gpu_parts.context import Context, text
from benchmarks.gpu_parts.engines import onnx_runtime, tensorrt
from benchmarks.gpu_parts.networks import Published, gflop, routed, static
from benchmarks.gpu_parts.state import LONGEST, NotHereError, Result, Row
from gcis_runtime.spec import Shape3

CEILINGS = ("fp32", "tf32", "fp16", "bf16")
COMPILATION = 0.1
"""Largest share of the time budget of a row that compiles a network."""


class Ladder:
    """Rows of the section; networks are built once.

    Args:
        context: Device, sizes, graphs and bundles.
    """

    def __init__(self, context: Context) -> None:
        self.context, self.rig = context, context.rig
        self._half = "fp16" if self.rig.cuda else "bf16"

    def rows(self) -> Iterator[Row]:
        """Return the rows: measured ceilings, then every window, batch and way to compute it."""
        for precision in CEILINGS if self.rig.cuda else ("fp32",):
            yield Row(
                name=f"ladder/matrix product/{precision}",
                measure=functools.partial(self.rig.ceiling, precision),
                worth=1 if precision in ("fp32", "fp16") else 2,
            )
        sizes = self.context.sizes
        for batch, roi in itertools.product(sizes.batches, sizes.windows):
            compiled = self._compiled_ways() if batch in (1, 4) else {}
            for way, measure in (self._ways() | compiled).items():
                yield Row(
                    name=f"ladder/window {text(roi)}, batch {batch}/{way}",
                    measure=functools.partial(self._row, measure, roi, batch),
                    worth=self._worth(way, roi, batch),
                    share=COMPILATION if way in compiled else LONGEST,
                )

    def _worth(self, way: str, roi: Shape3, batch: int) -> int:
        """Return 1 for deployed and published ways, 2 for batches and steps in between, otherwise 3."""
        if roi != self.context.sizes.windows[0] or way.startswith("torch.compile"):
            return 3
        if batch == 1:
            return 2 if "eager fp32" in way else 1
        return 2 if batch == 4 and "16" in way else 3

    def _ways(self) -> dict[str, Callable[[Shape3, int], Result]]:
        half, cut = self._half, functools.partial
        ways: dict[str, Callable[[Shape3, int], Result]] = {
            "published, all pathways, eager fp32": cut(self._eager, "published", "fp32"),
            f"published, all pathways, autocast {half}": cut(self._eager, "published", half),
            "published, all pathways, eager, PyTorch's defaults": cut(self._eager, "published", "default"),
            "one pathway, eager fp32": cut(self._eager, "static", "fp32"),
            f"one pathway, autocast {half}": cut(self._eager, "static", half),
            "ONNX Runtime fp32": cut(self._graph, onnx_runtime, "fp32"),
        }
        if not self.rig.cuda:
            del ways["published, all pathways, eager, PyTorch's defaults"]  # float32 on a CPU
            del ways[f"published, all pathways, autocast {half}"]  # 16 bits are slow on most CPUs
        if self.rig.cuda:
            ways["ONNX Runtime fp16"] = cut(self._graph, onnx_runtime, "fp16")
            for backend in ("trt", "trt-rtx"):
                for precision in ("fp16", "fp32"):
                    engine = cut(tensorrt, backend=backend)
                    ways[f"{backend} {precision}"] = cut(self._graph, engine, precision)
        return ways

    def _compiled_ways(self) -> dict[str, Callable[[Shape3, int], Result]]:
        return {
            f"torch.compile, one pathway, {precision}": functools.partial(self._compiled, precision)
            for precision in (self._half, "fp32")
        }

    def _row(self, measure: Callable[[Shape3, int], Result], roi: Shape3, batch: int) -> Result:
        try:
            found = measure(roi, batch)
        finally:
            self.rig.clear()
        seconds = found["median_ms"] / 1e3
        found["ms_per_window"] = round(found["median_ms"] / batch, 4)
        if "gflop_per_window" in found:
            found["gflops"] = round(found["gflop_per_window"] * batch / seconds, 1)
        return found

    @functools.cached_property
    def _networks(self) -> dict[str, nn.Module]:
        sizes = self.context.sizes
        net, embedding = routed(sizes.feature_size, pathways=sizes.pathways)
        made = {"published": Published(net, embedding), "static": static(net, embedding)}
        return {name: module.to(self.rig.device) for name, module in made.items()}

    @functools.cache  # noqa: B019 (one instance per process)
    def _gflop(self, way: str, roi: Shape3) -> float:
        return gflop(self._networks[way], torch.rand(1, 1, *roi, device=self.rig.device))

    def _eager(self, way: str, precision: str, roi: Shape3, batch: int) -> Result:
        net = self._networks[way]
        windows = self.rig.inputs((batch, 1, *roi))
        gflops = self._gflop(way, roi)
        with torch.no_grad(), self.rig.computing(precision):
            found = self.rig.time(lambda n: net(windows[n % len(windows)]))
        return found | {"gflop_per_window": round(gflops, 2)}

    def _compiled(self, precision: str, roi: Shape3, batch: int) -> Result:
        if self.rig.tiny:
            raise NotHereError("compilation takes minutes and is left out of --tiny")
        torch._dynamo.reset()
        net = torch.compile(self._networks["static"], dynamic=False)
        windows = self.rig.inputs((batch, 1, *roi))
        gflops = self._gflop("static", roi)
        with torch.no_grad(), self.rig.computing(precision):
            found = self.rig.time(lambda n: net(windows[n % len(windows)]))
        return found | {"gflop_per_window": round(gflops, 2)}

    def _graph(self, load: Callable[..., Any], precision: str, roi: Shape3, batch: int) -> Result:
        """Time an engine, and compare its logits with those of PyTorch."""
        if self.rig.tiny:
            return self._toy_graph(load)
        net: Any = self._networks["static"]
        name = f"ladder-{self.context.sizes.feature_size}-{text(roi)}-b{batch}-{precision}"
        graph = self.context.graphs.get(name, net.cpu, roi, batch, precision)
        net.to(self.rig.device)
        windows = self.rig.inputs((batch, 1, *roi))
        with torch.no_grad(), self.rig.on_stream():
            run, facts = load(graph, self.rig)
            found = self.rig.time(lambda n: run(windows[n % len(windows)]))
            facts |= _difference(run(windows[0]), net(windows[0]))
        return {**found, **facts, "gflop_per_window": round(self._gflop("static", roi), 2)}

    def _toy_graph(self, load: Callable[..., Any]) -> Result:
        """Time the graph of the parity section, since an export takes longer than all other toy rows."""
        case = Conformance("small", prompts=1)
        graph = self.context.graphs.get("parity-small-1-fp32", case.static.cpu, (64, 64, 64), 1, "fp32")
        windows = self.rig.inputs((1, 1, 64, 64, 64))
        with torch.no_grad(), self.rig.on_stream():
            run, facts = load(graph, self.rig)
            found = self.rig.time(lambda n: run(windows[n % len(windows)]))
            facts |= _difference(run(windows[0]), case.static.to(self.rig.device)(windows[0]))
        return {**found, **facts}


def _difference(answer: Tensor, expected: Tensor) -> Result:
    """Compare the logits of an engine with those of PyTorch in float32."""
    return {
        "max_difference": float((answer - expected).abs().max()),
        "relative": float((answer - expected).abs().max() / expected.abs().max()),
        "labels_equal": float(((answer > 0) == (expected > 0)).float().mean()),
    }


def rows(context: Context) -> Iterator[Row]:
    """Return the rows of the section."""
    return Ladder(context).rows()
