"""Graphs in engines, timed in turns: a process a turn, so that memory is the graph's own; interleaved."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from gcis_runtime.engines.openvino.quiet_import import import_openvino
from gcis_runtime.system.memory import peak_memory_bytes

ENGINES = ("onnx fp32", "openvino fp32", "openvino bf16")
"""What a graph is timed in: ONNX Runtime's CPU provider, and OpenVINO with either precision hint."""

Say = Callable[[str], None]


def take_turns(
    files: Mapping[str, Path],
    *,
    engines: tuple[str, ...] = ENGINES,
    rounds: int,
    threads: int,
    say: Say,
) -> dict[str, dict[str, Any]]:
    """Time every graph in every engine; within a round they follow one another.

    Args:
        files: ONNX files by name, with one input of static shape.
        engines: Which of `ENGINES`.
        rounds: Turns of each graph in each engine; a turn loads it, runs it twice and times the second.
        threads: CPU threads.
        say: Told of each turn.

    Returns:
        For each graph and engine: medians of seconds to load and to run, all runs, and peak memory. The CPU's
        seconds are of all threads together, and what to compare by where others use the machine too.
    """
    turns: dict[tuple[str, str], list[dict[str, float]]] = {(n, e): [] for e in engines for n in files}
    for _ in range(rounds):
        for (name, engine), done in turns.items():
            found = alone(_turn, str(files[name]), engine, threads)
            done.append(found)
            say(f"{name}, {engine}: {found['seconds']:.2f} s, {found['cpu_seconds']:.2f} s of CPU")
    rows: dict[str, dict[str, Any]] = {name: {} for name in files}
    for (name, engine), done in turns.items():
        rows[name][engine] = {
            "load_seconds": round(statistics.median(t["load_seconds"] for t in done), 3),
            "seconds": round(statistics.median(t["seconds"] for t in done), 3),
            "seconds_all": [round(t["seconds"], 3) for t in done],
            "cpu_seconds": round(statistics.median(t["cpu_seconds"] for t in done), 3),
            "cpu_seconds_all": [round(t["cpu_seconds"], 3) for t in done],
            "peak_memory_mb": round(max(t["peak_memory_mb"] for t in done)),
        }
    return rows


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process and return what it returns."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def _turn(file: str, engine: str, threads: int) -> dict[str, float]:
    """Load a graph, run it twice on noise, and time the second run."""
    started = time.perf_counter()
    shape, run = (_onnx if engine.startswith("onnx") else _openvino)(file, engine, threads)
    loaded = time.perf_counter()
    window = np.random.default_rng(0).random(shape, dtype=np.float32)
    run(window)
    warm = time.perf_counter()
    used = time.process_time()
    run(window)
    return {
        "load_seconds": loaded - started,
        "seconds": time.perf_counter() - warm,
        "cpu_seconds": time.process_time() - used,
        "peak_memory_mb": (peak_memory_bytes() or 0) / 1e6,
    }


def _onnx(file: str, _engine: str, threads: int) -> tuple[tuple[int, ...], Callable[[Any], Any]]:
    import onnxruntime as ort  # noqa: PLC0415 (in the turn's own process)

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    return tuple(image.shape), lambda window: session.run(None, {image.name: window})


def _openvino(file: str, engine: str, threads: int) -> tuple[tuple[int, ...], Callable[[Any], Any]]:
    hint = {"fp32": "f32", "bf16": "bf16"}[engine.rpartition(" ")[2]]
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = import_openvino().Core().compile_model(file, "CPU", settings)
    request = compiled.create_infer_request()
    return tuple(compiled.inputs[0].shape), lambda window: request.infer([window], share_inputs=True)
