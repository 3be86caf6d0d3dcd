"""Build a TensorRT or TensorRT-RTX engine from an ONNX file.

The network is strongly typed: the graph determines the precision, and TF32 is off by default. This module
creates no TensorRT runtime, which would crash without a driver.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from gcis_runtime.bundles.manifest import Precision
from gcis_runtime.engines.gpu.probe import Gpu
from gcis_runtime.engines.tensorrt.family import Capability, Family, load_builder
from gcis_runtime.engines.tensorrt.layers import precision_in_log, precision_of_network
from gcis_runtime.engines.tensorrt.log import last_error, make_log, out_of_memory
from gcis_runtime.errors import DeviceMemoryError, EngineError

PORTABLE = "sm_80+"
"""Device of engines that run on Ampere and later GPUs."""


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Build settings; some apply to one family only.

    Attributes:
        optimization_level: 0 (fast build) to 5 (fast engine); None keeps the builder's default.
        tf32: Round the factors of float32 products to 11 bits.
        capabilities: Compute capabilities to build for; empty means Ampere and later. trt-rtx only.
        hardware_compatibility: `"none"`, `"same"` (GPUs of the same compute capability) or `"ampere+"`. trt
            only.
        version_compatible: Whether later releases of the same major version can run the engine. The lean
            runtime is not embedded, so that tensorrt-lean must be installed there. trt only.
        timing_cache: Timing cache of an earlier build. trt only.
        max_batch: Largest batch if the graph has a dynamic batch.
    """

    optimization_level: int | None = None
    tf32: bool = False
    capabilities: tuple[Capability, ...] = ()
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    timing_cache: bytes = b""
    max_batch: int = 1


@dataclass(frozen=True, kw_only=True)
class Built:
    """A built engine.

    Attributes:
        plan: The serialized engine.
        precision: Precision of the engine's layers, or of the typed network if the builder lists no layers.
        version: Version of the builder.
        device: GPUs that can run the engine: `sm_80+`, `sm_89` or `sm_86,sm_89`.
        seconds: Build time in seconds.
        settings: Build settings for the manifest.
        timing_cache: Timing cache for the next build; may be empty.
    """

    plan: bytes
    precision: Precision
    version: str
    device: str
    seconds: float
    settings: dict[str, str]
    timing_cache: bytes


def build(family: Family, graph: bytes, settings: BuildSettings, *, gpu: Gpu | None = None) -> Built:
    """Build an engine.

    Args:
        family: TensorRT family.
        graph: Content of an ONNX file.
        settings: Build settings.
        gpu: GPU to build on; required for TensorRT.

    Raises:
        EngineError: TensorRT is not installed, rejects the graph, or cannot build for these GPUs.
        DeviceMemoryError: Memory was exhausted during the build.
    """
    if gpu is None and not family.builds_without_gpu:
        raise EngineError(
            f"{family.product} engines are built on the GPU that will run them",
            received="no GPU",
            expected="an NVIDIA GPU and its driver",
            fix="Export on that machine, or use --engine trt-rtx, which builds without a GPU.",
        )
    trt = load_builder(family)
    log = make_log(trt)
    builder = _made(trt.Builder(log), family, log, "start its builder")
    network = builder.create_network(_network_flags(trt))
    _parse(trt.OnnxParser(network, log), graph, family, log, native=_native(trt, settings))
    config = builder.create_builder_config()
    noted = _configure(trt, family, config, settings)
    if any(-1 in network.get_input(i).shape for i in range(network.num_inputs)):
        noted |= _open_batch(builder, network, config, settings)
    start = time.perf_counter()
    try:
        plan = builder.build_serialized_network(network, config)
    except MemoryError as error:
        raise DeviceMemoryError(f"{family.product} ran out of memory while building") from error
    seconds = time.perf_counter() - start
    data = bytes(_made(plan, family, log, "build the engine"))
    in_layers, in_network = precision_in_log(log.layers), precision_of_network(network)
    precision = in_layers or in_network
    if precision is None:
        raise EngineError(
            f"the engine of {family.product} has no convolution",
            received="no layer with a known precision",
            expected="convolutions or matrix products",
            fix="Export the bundle again.",
        )
    return Built(
        plan=data,
        precision=precision,
        version=str(trt.__version__),
        device=_device(family, settings, gpu),
        seconds=seconds,
        settings=noted
        | {
            "seconds": f"{seconds:.1f}",
            "precision_read_from": "engine layers" if in_layers else "typed network",
        }
        | ({"gpu": gpu.name} if gpu is not None and not family.builds_without_gpu else {}),
        timing_cache=_timings(config) if not family.builds_without_gpu else b"",
    )


def _network_flags(trt: Any) -> int:
    """Return the flag for strong typing, or 0 for versions in which every network is strongly typed."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _native(trt: Any, settings: BuildSettings) -> Any:
    """Return the parser's flag for native instance normalization, or None if the plugin can be used.

    An engine with the plugin runs only with the same version and on the same kind of GPU.
    """
    if not settings.version_compatible and settings.hardware_compatibility == "none":
        return None
    return getattr(getattr(trt, "OnnxParserFlag", None), "NATIVE_INSTANCENORM", None)


def _parse(parser: Any, graph: bytes, family: Family, log: Any, *, native: Any) -> None:
    """Parse an ONNX file into the parser's network."""
    if native is not None:
        parser.set_flag(native)
    if parser.parse(graph):
        return
    errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
    raise EngineError(
        f"{family.product} cannot parse the graph",
        received=" ".join((errors or [last_error(log, default="no reason given")])[0].split())[:300],
        fix="Use another --engine, or report the operator in this message.",
    )


def _configure(trt: Any, family: Family, config: Any, settings: BuildSettings) -> dict[str, str]:
    """Apply the settings to a builder configuration, and return them as text for the manifest."""
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # layer descriptions contain precisions
    if settings.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # TF32 is on by default
    noted = {"tf32": "on" if settings.tf32 else "off"}
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
        noted["optimization_level"] = str(settings.optimization_level)
    if family.builds_without_gpu:
        return noted | _narrow(trt, family, config, settings)
    return noted | _widen(trt, config, settings)


def _narrow(trt: Any, family: Family, config: Any, settings: BuildSettings) -> dict[str, str]:
    """Set the compute capabilities of a TensorRT-RTX engine; the default is Ampere and later."""
    if not settings.capabilities:
        return {"compute_capability": PORTABLE}
    config.num_compute_capabilities = len(settings.capabilities)
    for index, (major, minor) in enumerate(settings.capabilities):
        name = f"SM{major}{minor}"
        known = getattr(trt.ComputeCapability, name, None)
        if known is None or not config.set_compute_capability(known, index):
            offered = ", ".join(f"{a}.{b}" for a, b in family.capabilities or ())
            raise EngineError(
                f"{family.product} does not build for this compute capability",
                received=f"{major}.{minor}",
                expected=offered,
                fix="Choose one of them with --compute-capability, or leave it out.",
            )
    return {"compute_capability": _names(settings.capabilities)}


def _widen(trt: Any, config: Any, settings: BuildSettings) -> dict[str, str]:
    """Set the hardware and version compatibility and the timing cache of a TensorRT engine."""
    noted = {"hardware_compatibility": settings.hardware_compatibility}
    level = {"same": "SAME_COMPUTE_CAPABILITY", "ampere+": "AMPERE_PLUS"}.get(settings.hardware_compatibility)
    if level is not None:
        known = getattr(trt.HardwareCompatibilityLevel, level, None)
        if known is None:
            raise EngineError(
                "this TensorRT has no such hardware-compatibility level",
                received=f"{settings.hardware_compatibility} with TensorRT {trt.__version__}",
                expected="none or ampere+",
                fix="Choose one of them with --hardware-compatibility, or install a newer TensorRT.",
            )
        config.hardware_compatibility_level = known
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        # The lean runtime in an engine is host code; the installed tensorrt-lean is used instead.
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
        noted["version_compatible"] = "yes"
    cache = config.create_timing_cache(settings.timing_cache)
    if cache is not None:
        config.set_timing_cache(cache, False)
    return noted


def _open_batch(builder: Any, network: Any, config: Any, settings: BuildSettings) -> dict[str, str]:
    """Add a profile for batches from 1 to the largest, optimized for the largest, to a dynamic graph."""
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        least, most = (
            tuple(batch if n == -1 else n for n in tensor.shape) for batch in (1, settings.max_batch)
        )
        profile.set_shape(tensor.name, least, most, most)
    config.add_optimization_profile(profile)
    return {"batch": f"1 to {settings.max_batch}"}


def _made(thing: Any, family: Family, log: Any, what: str) -> Any:
    """Return an object of TensorRT, or raise an error with the last log message if it is None."""
    if thing is not None:
        return thing
    if out_of_memory(log):
        raise DeviceMemoryError(
            f"{family.product} cannot {what}: out of memory",
            received=last_error(log, default=""),
            fix="Close other programs on the GPU, or export a smaller --batch.",
        )
    raise EngineError(
        f"{family.product} cannot {what}",
        received=last_error(log, default="no reason given"),
        fix="Use another --engine or --precision.",
    )


def _device(family: Family, settings: BuildSettings, gpu: Gpu | None) -> str:
    if family.builds_without_gpu:
        return _names(settings.capabilities) if settings.capabilities else PORTABLE
    return PORTABLE if settings.hardware_compatibility == "ampere+" or gpu is None else gpu.sm


def _names(capabilities: tuple[Capability, ...]) -> str:
    return ",".join(f"sm_{major}{minor}" for major, minor in sorted(capabilities))


def _timings(config: Any) -> bytes:
    cache = config.get_timing_cache()
    data = None if cache is None else cache.serialize()
    return b"" if data is None else bytes(data)
