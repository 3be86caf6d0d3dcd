"""An ONNX file becomes a TensorRT engine: written once for both families.

Precision is in the graph: the network is strongly typed, and TF32 is off unless asked for. Nothing here
creates a TensorRT runtime, which would crash without a driver.
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
"""Ampere and later, what an engine of TensorRT-RTX or of the hardware-compatibility level says for its
device."""


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How an engine is built; each family uses what it has.

    Attributes:
        optimization_level: 0 to 5, quick to thorough; None is the builder's own.
        tf32: Let float32 products round their factors to 11 bits.
        capabilities: trt-rtx: GPUs to build for; none means Ampere and later.
        hardware_compatibility: trt: `"none"`, `"same"` (GPUs of the same compute capability), `"ampere+"`.
        version_compatible: trt: later releases of the same major version run it too, and tensorrt-lean, which
            must be installed there: it is left out of the engine.
        timing_cache: trt: measurements of an earlier build.
        max_batch: Largest batch where the graph leaves it open.
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
    """An engine.

    Attributes: plan: Its bytes. precision: What it computes in, read from the layers that the builder made,
        else from the typed network. version: The builder's version. device: GPUs that it is for: `sm_80+`,
        `sm_89`, `sm_86,sm_89`. seconds: Time to build. settings: How it was built, for the manifest.
        timing_cache: Measurements for the next build; empty where there are none.
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
        family: Which TensorRT.
        graph: An ONNX file.
        settings: How.
        gpu: The GPU to build on; TensorRT needs one.

    Raises:
        EngineError: It is not installed, does not take the graph, or cannot build for these GPUs.
        DeviceMemoryError: Memory ran out while building.
    """
    if gpu is None and not family.builds_without_gpu:
        raise EngineError(
            f"{family.product} engines are built on the GPU that will run them",
            received="no GPU",
            fix="Export there, or use --engine trt-rtx, which builds anywhere.",
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
            f"the engine of {family.product} has no convolution", fix="Export the bundle again."
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
    """Return the flag of strong typing; versions without it know nothing else."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _native(trt: Any, settings: BuildSettings) -> Any:
    """Return the parser's flag for instance norm as TensorRT's own layer, where that is needed.

    The plugin would tie the engine to this version and GPU.
    """
    if not settings.version_compatible and settings.hardware_compatibility == "none":
        return None
    return getattr(getattr(trt, "OnnxParserFlag", None), "NATIVE_INSTANCENORM", None)


def _parse(parser: Any, graph: bytes, family: Family, log: Any, *, native: Any) -> None:
    """Read the ONNX file into the parser's network."""
    if native is not None:
        parser.set_flag(native)
    if parser.parse(graph):
        return
    errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
    raise EngineError(
        f"{family.product} does not take the graph",
        received=" ".join((errors or [last_error(log, default="no reason given")])[0].split())[:300],
        fix="Use another --engine, or report the operator that it names.",
    )


def _configure(trt: Any, family: Family, config: Any, settings: BuildSettings) -> dict[str, str]:
    """Set everything and return what was set, for the manifest."""
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # layers say what they compute in
    if settings.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default
    noted = {"tf32": "on" if settings.tf32 else "off"}
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
        noted["optimization_level"] = str(settings.optimization_level)
    if family.builds_without_gpu:
        return noted | _narrow(trt, family, config, settings)
    return noted | _widen(trt, config, settings)


def _narrow(trt: Any, family: Family, config: Any, settings: BuildSettings) -> dict[str, str]:
    """Choose the GPUs of a TensorRT-RTX engine; Ampere and later without a choice."""
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
    """Set what makes a TensorRT engine serve other GPUs and versions, and give it earlier measurements."""
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
        # The lean runtime inside an engine is host code; tensorrt-lean on the machine does its work.
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
        noted["version_compatible"] = "yes"
    cache = config.create_timing_cache(settings.timing_cache)
    if cache is not None:
        config.set_timing_cache(cache, False)
    return noted


def _open_batch(builder: Any, network: Any, config: Any, settings: BuildSettings) -> dict[str, str]:
    """Give a graph of open batch a profile from one window to the largest batch, best at the largest."""
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
    """Return what TensorRT made, or raise what its log says where it is None."""
    if thing is not None:
        return thing
    if out_of_memory(log):
        raise DeviceMemoryError(
            f"{family.product} ran out of memory while it should {what}",
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
