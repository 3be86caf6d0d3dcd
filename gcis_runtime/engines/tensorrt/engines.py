"""Select a bundle's engine that fits the GPU, or build one from the bundle's graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import Engine, Graph
from gcis_runtime.engines.gpu.probe import Gpu
from gcis_runtime.engines.graph_choice import choose_graph
from gcis_runtime.engines.tensorrt.build import BuildSettings, build
from gcis_runtime.engines.tensorrt.family import Family, load_builder
from gcis_runtime.engines.tensorrt.fit import misfit
from gcis_runtime.errors import EngineError
from gcis_runtime.system.private_cache import open_cache

_PREFERRED = ("fp16", "bf16", "fp32")
"""Precisions that `auto` may select, fastest first."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A verified engine, ready to be deserialized.

    Attributes:
        plan: The serialized engine.
        precision: Precision of its layers, as read after the build.
        batch: Windows per run.
        notes: Notes for the user.
    """

    plan: bytes
    precision: str
    batch: int
    notes: tuple[str, ...] = ()


def find_engine(
    bundle: Bundle, family: Family, *, version: str, gpu: Gpu, precision: str, batch: int | None
) -> Loaded:
    """Return an engine for this GPU and this TensorRT.

    Args:
        bundle: The bundle.
        family: TensorRT family.
        version: Installed version of TensorRT.
        gpu: The GPU.
        precision: A precision, or `"auto"`.
        batch: Largest number of windows per run; None selects the largest batch.

    Raises:
        EngineError: No engine fits and none can be built; the message contains the reason.
        BundleError: The engine's file is not the one that was exported.
    """
    if not family.serves(gpu.capability):
        raise EngineError(
            f"{family.product} does not support this GPU",
            received=f"{gpu.name} ({gpu.sm})",
            expected=", ".join(f"sm_{a}{b}" for a, b in family.capabilities or ()),
            fix="Use --engine trt or --engine onnx with --device cuda.",
        )
    reasons = []
    for engine in _candidates(bundle, family, precision, batch):
        reason = misfit(engine, family, version=version, gpu=gpu)
        if reason is None:
            return Loaded(plan=bundle.read(engine.file), precision=engine.precision, batch=engine.batch)
        reasons.append(f"the bundle's {engine.precision} engine does not fit: {reason}")
    why = reasons[0] if reasons else f"the bundle has no {family.backend} engine of that precision"
    return _built_here(bundle, family, gpu=gpu, precision=precision, batch=batch, why=why)


def _candidates(bundle: Bundle, family: Family, precision: str, batch: int | None) -> Sequence[Engine]:
    """Return the bundle's matching engines, fastest precision first, then largest batch first."""
    allowed = _PREFERRED if precision == "auto" else (precision,)
    found = [
        engine
        for engine in bundle.manifest.engines
        if engine.backend == family.backend
        and engine.precision in allowed
        and (batch is None or engine.batch <= batch)
        and all(r.passed for r in bundle.manifest.parity if r.graph == engine.graph and precision == "auto")
    ]
    return sorted(found, key=lambda engine: (allowed.index(engine.precision), -engine.batch))


def _built_here(
    bundle: Bundle, family: Family, *, gpu: Gpu, precision: str, batch: int | None, why: str
) -> Loaded:
    """Build an engine from the bundle's graph for this GPU, or return the cached one."""
    try:
        version = str(load_builder(family).__version__)
    except EngineError as error:
        raise EngineError(
            why,
            received=f"{gpu.name}, and {error.message}",
            fix=f"Install the builder, pip install 'gcis[{family.extra}]', or export for this GPU.",
        ) from error
    graph = choose_graph(
        bundle.manifest, precision=precision, batch=batch, preferred=_offered(bundle, family)
    )
    settings = BuildSettings(capabilities=(gpu.capability,) if family.builds_without_gpu else ())
    cache = open_cache()
    key = _key(bundle, family, graph, version=version, gpu=gpu)
    found = None if cache is None else cache.find(family.backend, key)
    if found is not None:
        return Loaded(
            plan=found.read_bytes(),
            precision=graph.precision,
            batch=graph.batch,
            notes=(f"{why}; using the cached engine that was built for {gpu.name}",),
        )
    made = build(family, bundle.graph(graph.file), settings, gpu=gpu)
    if made.precision != graph.precision:
        raise wrong_precision(family, made.precision, graph.precision)
    kept = None if cache is None else cache.store(family.backend, key, lambda p: p.write_bytes(made.plan))
    where = "cached for the next start" if kept else "not cached: no private cache folder"
    return Loaded(
        plan=made.plan,
        precision=made.precision,
        batch=graph.batch,
        notes=(f"{why}; built one for {gpu.name} in {made.seconds:.0f} s, {where}",),
    )


def wrong_precision(family: Family, received: str, expected: str) -> EngineError:
    """Return the error for an engine whose layers do not have the precision of its graph."""
    return EngineError(
        f"the {family.product} engine does not compute in the precision of its graph",
        received=received,
        expected=expected,
        fix="Export with another --precision.",
    )


def _offered(bundle: Bundle, family: Family) -> tuple[str, ...]:
    """Return the precisions that `auto` may build: those of the bundle's engines of the family, then fp32."""
    listed = [e.precision for e in _candidates(bundle, family, "auto", None)]
    return (*dict.fromkeys(listed), "fp32")


def _key(bundle: Bundle, family: Family, graph: Graph, *, version: str, gpu: Gpu) -> dict[str, str]:
    """Return the cache key of an engine: graph, window, batch, precision, backend, version and GPU."""
    return {
        "graph": bundle.graph_key(graph.file),
        "window": "x".join(map(str, bundle.manifest.window.patch_size)),
        "batch": str(graph.batch),
        "precision": graph.precision,
        "backend": family.backend,
        "version": version,
        "gpu": f"{gpu.name} {gpu.sm}",
    }
