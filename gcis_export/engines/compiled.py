"""Compiled engines: built from the bundle's graphs, written beside them, and run where a GPU is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from gcis_export.bundle_writer import file_entry, write_manifest
from gcis_export.compare import Logits
from gcis_export.engines import tensorrt, tensorrt_rtx
from gcis_export.engines.options import EngineOptions
from gcis_export.parity import Gate
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import Engine, FileEntry, Graph, Manifest, engine_file
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.gpu.probe import Gpu, probe_driver
from gcis_runtime.engines.options import EngineOptions as SessionOptions
from gcis_runtime.engines.tensorrt.build import Built, build
from gcis_runtime.engines.tensorrt.engines import wrong_precision
from gcis_runtime.engines.tensorrt.family import Family
from gcis_runtime.engines.tensorrt.fit import misfit
from gcis_runtime.errors import EngineError
from gcis_runtime.system.private_cache import open_cache

_BACKENDS = {module.FAMILY.backend: module for module in (tensorrt, tensorrt_rtx)}
_TIMINGS = "trt-timing"

Say = Callable[[str], None]


def build_engines(
    folder: Path,
    manifest: Manifest,
    gate: Gate,
    names: Sequence[str],
    *,
    precision: str,
    options: EngineOptions,
    reference: str,
    expected: Sequence[Logits],
    say: Say,
) -> tuple[Manifest, tuple[str, ...]]:
    """Build an engine of every graph of a precision for every compiled backend, and run it where that can be.

    Args:
        folder: The staged bundle.
        manifest: What it says so far; every graph is in it and was compared.
        gate: Windows and report.
        names: Engines that were asked for; others than compiled ones are passed over.
        precision: The graphs to build from.
        options: How.
        reference: What engines are compared with.
        expected: Its logits on the gate's windows.
        say: Told of each build.

    Returns:
        The manifest with the engines and their files, and remarks on engines that could not be run.

    Raises:
        EngineError: An engine cannot be built, or computes in another precision than its graph.
        ParityError: An engine that ran here differs.
    """
    notes: list[str] = []
    for name in [name for name in names if name in _BACKENDS]:
        backend = _BACKENDS[name]
        gpu = backend.check(options)
        for graph in [g for g in manifest.graphs if g.precision == precision]:
            say(f"building {backend.FAMILY.product} from {graph.file}")
            built = _build(backend.FAMILY, folder / graph.file, options, gpu)
            engine, entry = _write(folder, backend.FAMILY, graph, built)
            manifest = msgspec.structs.replace(
                manifest, engines=(*manifest.engines, engine), files=(*manifest.files, entry)
            )
            write_manifest(folder, manifest)
            problem = _run(folder, backend.FAMILY, engine, gate, reference=reference, expected=expected)
            if problem is not None:
                notes.append(
                    f"the {backend.FAMILY.product} engine was not run here ({problem}); "
                    f"its graph {graph.file} was compared"
                )
    return manifest, tuple(notes)


def _build(family: Family, graph: Path, options: EngineOptions, gpu: Gpu | None) -> Built:
    """Build, with what earlier builds on this GPU measured."""
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
    """Write an engine under the name that says what it is; it has to compute in its graph's precision."""
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


def _run(
    folder: Path,
    family: Family,
    engine: Engine,
    gate: Gate,
    *,
    reference: str,
    expected: Sequence[Logits],
) -> str | None:
    """Run an engine as the runtime does and compare it; return why it cannot run here."""
    driver = probe_driver()
    if driver.problem is not None:
        return driver.problem
    reason = misfit(engine, family, version=engine.backend_version, gpu=driver.gpus[0])
    if reason is not None:
        return reason
    try:
        session = open_session(
            open_bundle(folder),
            SessionOptions(
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
        reference=reference,
        expected=expected,
        precision=engine.precision,
        graph=engine.graph,
    )
    return None
