"""Build TensorRT engines from the graphs of a staged bundle, and run them if a suitable GPU is present."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gcis_export.bundle.staged import StagedBundle
from gcis_export.bundle.writer import file_entry
from gcis_export.engines import tensorrt, tensorrt_rtx
from gcis_export.gate.parity import Gate, Reference
from gcis_export.options import BuildOptions, EngineName, Precision
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import Engine, FileEntry, Graph, engine_file
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.gpu.probe import Gpu, probe_driver
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.engines.tensorrt.build import Built, build
from gcis_runtime.engines.tensorrt.engines import wrong_precision
from gcis_runtime.engines.tensorrt.family import Family
from gcis_runtime.engines.tensorrt.fit import misfit
from gcis_runtime.errors import EngineError
from gcis_runtime.system.private_cache import open_cache

_BACKENDS = {module.FAMILY.backend: module for module in (tensorrt, tensorrt_rtx)}
_TIMINGS = "trt-timing"


def build_engines(
    staged: StagedBundle,
    names: Sequence[EngineName],
    *,
    precision: Precision,
    options: BuildOptions,
    reference: Reference,
    on_step: Callable[[str], None],
) -> tuple[StagedBundle, tuple[str, ...]]:
    """Build one engine per compiled backend and graph of a precision, and compare the engines that run here.

    Args:
        staged: Staged bundle; all of its graphs have been compared.
        names: Selected engines; only compiled engines are built.
        precision: Precision of the graphs to build from.
        options: Options for building.
        reference: Logits that the engines are compared with.
        on_step: Called with a line of text before each build.

    Returns:
        The bundle with the engines, and notes on engines that could not be run.

    Raises:
        EngineError: An engine cannot be built, or computes in a precision other than that of its graph.
        ParityError: An engine that ran differs from the reference.
    """
    notes: list[str] = []
    for name in [name for name in names if name in _BACKENDS]:
        backend = _BACKENDS[name]
        gpu = backend.check(options)
        for graph in [g for g in staged.manifest.graphs if g.precision == precision]:
            on_step(f"building {backend.FAMILY.product} from {graph.file}")
            built = _build(backend.FAMILY, staged.folder / graph.file, options, gpu)
            engine, entry = _write(staged.folder, backend.FAMILY, graph, built)
            staged = staged.with_engine(engine, entry)
            staged.write()
            problem = _run(staged.folder, backend.FAMILY, engine, staged.gate, reference)
            if problem is not None:
                notes.append(
                    f"the {backend.FAMILY.product} engine was not run here ({problem}); "
                    f"its graph {graph.file} was compared"
                )
    return staged, tuple(notes)


def _build(family: Family, graph: Path, options: BuildOptions, gpu: Gpu | None) -> Built:
    """Build an engine, reusing the kernel timings of earlier builds on this GPU."""
    cache = open_cache() if gpu is not None else None
    key = {} if gpu is None else {"gpu": gpu.name, "backend": family.backend}
    found = None if cache is None else cache.find(_TIMINGS, key)
    times = b"" if found is None else found.read_bytes()
    settings = _BACKENDS[family.backend].settings(options, timing_cache=times)
    built = build(family, graph.read_bytes(), settings, gpu=gpu)
    if cache is not None and built.timing_cache not in (b"", times):
        cache.store(_TIMINGS, key, lambda path: path.write_bytes(built.timing_cache))
    return built


def _write(folder: Path, family: Family, graph: Graph, built: Built) -> tuple[Engine, FileEntry]:
    """Write an engine, named after its properties; raise if its precision differs from that of the graph."""
    if built.precision != graph.precision:
        raise wrong_precision(family, built.precision, graph.precision)
    name = engine_file(family.backend, built.version, built.device, built.precision, graph.batch)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(built.plan)
    engine = Engine(
        backend=family.backend,
        precision=built.precision,
        file=name,
        graph=graph.file,
        backend_version=built.version,
        device=built.device,
        batch=graph.batch,
        settings=built.settings,
    )
    return engine, file_entry(folder, name)


def _run(folder: Path, family: Family, engine: Engine, gate: Gate, reference: Reference) -> str | None:
    """Run an engine as the runtime does and compare its logits; return why it cannot run here, or None."""
    driver = probe_driver()
    if driver.problem is not None:
        return driver.problem
    reason = misfit(engine, family, version=engine.backend_version, gpu=driver.gpus[0])
    if reason is not None:
        return reason
    try:
        session = open_session(
            open_bundle(folder),
            EngineOptions(
                engine=family.backend, device="cuda", precision=engine.precision, batch=engine.batch
            ),
        )
    except EngineError as error:
        if family.builds_without_gpu:
            return error.message
        raise
    try:
        answers = gate.answers(session.run)
    finally:
        session.close()
    gate.check(
        f"{family.product} {engine.backend_version}",
        answers,
        reference,
        precision=engine.precision,
        graph=engine.graph,
    )
    return None
