"""The engine that runs a bundle here: the bundle's own where it fits, else one built from its graph."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import Engine, Graph
from gcis_runtime.engines.gpu.probe import Gpu
from gcis_runtime.engines.graph_choice import choose_graph
from gcis_runtime.engines.tensorrt.build import BuildSettings, build
from gcis_runtime.engines.tensorrt.family import Family, load_builder
from gcis_runtime.engines.tensorrt.fit import misfit
from gcis_runtime.errors import BundleError, EngineError
from gcis_runtime.system.private_cache import open_cache

_PREFERRED = ("fp16", "bf16", "fp32")
"""What `auto` takes of the engines that an export made and checked, fastest first."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An engine whose hash was checked, ready to be deserialised.

    Attributes:
        plan: Its bytes.
        precision: What it computes in, as read back when it was built.
        batch: Windows a run.
        notes: What the user should know.
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
        family: Which TensorRT.
        version: Its installed version.
        gpu: The GPU.
        precision: A precision, or `"auto"`.
        batch: Most windows a run; None takes the largest.

    Raises:
        EngineError: None fits, and none can be built here; says why.
        BundleError: The engine's file is not the one that was exported.
    """
    if not family.serves(gpu.capability):
        raise EngineError(
            f"{family.product} has no code for this GPU",
            received=f"{gpu.name} ({gpu.sm})",
            expected=", ".join(f"sm_{a}{b}" for a, b in family.capabilities or ()),
            fix="Use --engine trt or --engine onnx with --device cuda.",
        )
    reasons = []
    for engine in _candidates(bundle, family, precision, batch):
        reason = misfit(engine, family, version=version, gpu=gpu)
        if reason is None:
            return Loaded(plan=read_plan(bundle, engine), precision=engine.precision, batch=engine.batch)
        reasons.append(f"the bundle's {engine.precision} engine does not fit: {reason}")
    why = reasons[0] if reasons else f"the bundle has no {family.backend} engine of that precision"
    return _built_here(bundle, family, gpu=gpu, precision=precision, batch=batch, why=why)


def read_plan(bundle: Bundle, engine: Engine) -> bytes:
    """Read an engine's file once and check those very bytes: deserialising them is running code.

    Raises:
        BundleError: They are not what was exported.
    """
    data = bundle.file(engine.file).read_bytes()
    expected = bundle.manifest.entry(engine.file).sha256
    if hashlib.sha256(data).hexdigest() != expected:
        raise BundleError(
            f"{bundle.folder / engine.file} is not the file that was exported",
            expected=f"sha256 {expected[:12]}…",
            fix="Export it again, or fetch it again if it was copied.",
        )
    return data


def _candidates(bundle: Bundle, family: Family, precision: str, batch: int | None) -> Sequence[Engine]:
    """Return the bundle's engines that are meant, best first: by precision, then by batch."""
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
    """Build an engine from the bundle's graph for this GPU, or take the one that was built before."""
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
            notes=(f"{why}; using the one built for {gpu.name} earlier",),
        )
    made = build(family, bundle.file(graph.file).read_bytes(), settings, gpu=gpu)
    if made.precision != graph.precision:
        raise wrong_precision(family, made.precision, graph.precision)
    kept = None if cache is None else cache.store(family.backend, key, lambda p: p.write_bytes(made.plan))
    where = "kept for the next start" if kept else "not kept: no private cache folder"
    return Loaded(
        plan=made.plan,
        precision=made.precision,
        batch=graph.batch,
        notes=(f"{why}; built one for {gpu.name} in {made.seconds:.0f} s, {where}",),
    )


def wrong_precision(family: Family, received: str, expected: str) -> EngineError:
    """Return the error for an engine whose layers compute in another precision than its graph says."""
    return EngineError(
        f"the {family.product} engine computes in another precision than was asked for",
        received=received,
        expected=expected,
        fix="Export with another --precision.",
    )


def _offered(bundle: Bundle, family: Family) -> tuple[str, ...]:
    """Return the precisions that `auto` may build in: those of the bundle's engines for it, else fp32."""
    listed = [e.precision for e in _candidates(bundle, family, "auto", None)]
    return (*dict.fromkeys(listed), "fp32")


def _key(bundle: Bundle, family: Family, graph: Graph, *, version: str, gpu: Gpu) -> dict[str, str]:
    """Return all that decides an engine: model, window, batch, precision, version and GPU."""
    return {
        "graph": bundle.manifest.entry(graph.file).sha256,
        "window": "x".join(map(str, bundle.manifest.window.patch_size)),
        "batch": str(graph.batch),
        "precision": graph.precision,
        "backend": family.backend,
        "version": version,
        "gpu": f"{gpu.name} {gpu.sm}",
    }
