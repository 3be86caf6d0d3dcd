"""Simulate a TensorRT module, which records build settings in its plans and runs them on the fake driver.

Names are those of `tensorrt_rtx`; `tests/runtime/engines/tensorrt/test_build.py` compares them with the real
module.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.support.numpy_kernels import array_at


def network(window: np.ndarray) -> np.ndarray:
    """Return the logits (n, 2, X, Y, Z) of windows (n, 1, X, Y, Z)."""
    return np.concatenate([window - np.float32(0.5), np.float32(0.4) - window], axis=1)


class _Enum(int):
    name = ""


def _enum(*names: str) -> Any:
    members = {}
    for i, name in enumerate(names):
        members[name] = _Enum(i)
        members[name].name = name
    return SimpleNamespace(**members)


class ILogger:
    def __init__(self) -> None: ...


class _Tensor:
    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype


class Layer:
    def __init__(self, kind: str, dtype: Any, *, reads: str = "x", gives: str = "y") -> None:
        self.type, self.num_inputs, self._dtype = SimpleNamespace(name=kind), 1, dtype
        self.reads, self.gives = reads, gives

    def get_input(self, index: int) -> Any:
        return SimpleNamespace(dtype=self._dtype, name=self.reads)

    def get_output(self, index: int) -> Any:
        return SimpleNamespace(dtype=self._dtype, name=self.gives)


class FakeTensorrt:
    """A TensorRT module. `make` creates one with another name, version or other features.

    Attributes:
        driver: The fake CUDA driver that engines run on.
        configs: Builder configurations at the time of each build.
        fail: Steps that fail: `"parse"`, `"build"`, `"deserialise"`, `"context"`, `"execute"`.
        error: Message that is logged by a failing step.
        built: Layer types of the built engine; None keeps those of the network.
    """

    LayerInformationFormat = _enum("ONELINE", "JSON")
    TensorIOMode = _enum("NONE", "INPUT", "OUTPUT")
    ProfilingVerbosity = _enum("LAYER_NAMES_ONLY", "NONE", "DETAILED")
    BuilderFlag = _enum("TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME")
    NetworkDefinitionCreationFlag = _enum("STRONGLY_TYPED")
    HardwareCompatibilityLevel = _enum("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY")
    ComputeCapability = _enum("NONE", "CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
    CudaGraphStrategy = _enum("DISABLED", "WHOLE_GRAPH_CAPTURE")
    OnnxParserFlag = _enum("NATIVE_INSTANCENORM")
    DataType = _enum("FLOAT", "HALF", "INT8", "BF16")
    ILogger = ILogger

    def __init__(self, driver: Any = None, *, name: str = "tensorrt", version: str = "10.9.0.34") -> None:
        self.__name__, self.__version__, self.driver = name, version, driver
        self.configs: list[Any] = []
        self.parser_flags: list[int] = []
        self.jit_stored = b""
        self.jit_given: list[bytes] = []
        self.contexts: list[Any] = []
        self.fail: set[str] = set()
        self.error, self.built = "", None
        self.verbose_layers = name == "tensorrt_rtx"
        self.shape: tuple[int, ...] = (1, 1, 64, 64, 64)
        if name == "tensorrt_rtx":
            self.IRuntimeCache = object

    def plan(self, *, precision: str = "Float", inputs: str = "image") -> bytes:
        return json.dumps({"precision": precision, "input": inputs, "shape": self.shape}).encode()

    # Building

    def Builder(self, log: Any) -> Any:  # noqa: N802
        self.log = log
        return SimpleNamespace(
            create_network=self._network,
            create_builder_config=self._config,
            create_optimization_profile=lambda: SimpleNamespace(shapes={}, set_shape=self._set_shape),
            build_serialized_network=self._build,
        )

    def _set_shape(self, *shapes: Any) -> None:
        self.profile = shapes

    def _network(self, flags: int) -> Any:
        self.network_flags = flags
        return SimpleNamespace(
            num_layers=0, num_inputs=1, get_input=lambda i: _Tensor("image", self.shape, None), layers=[]
        )

    def OnnxParser(self, network: Any, log: Any) -> Any:  # noqa: N802
        def parse(data: bytes) -> bool:
            if "parse" in self.fail:
                return False
            kind = next((k for k in ("HALF", "BF16", "INT8") if k.lower().encode() in data[:8]), "FLOAT")
            dtype = getattr(self.DataType, kind)
            network.layers = [Layer("CONVOLUTION", dtype), Layer("SHUFFLE", self.DataType.FLOAT)]
            network.num_layers, network.get_layer = 2, network.layers.__getitem__
            return True

        return SimpleNamespace(
            parse=parse, num_errors=1, get_error=lambda i: "operator Foo", set_flag=self.parser_flags.append
        )

    def _config(self) -> Any:
        flags = {int(self.BuilderFlag.TF32)}
        config = SimpleNamespace(
            on=flags, set_flag=lambda f: flags.add(int(f)), clear_flag=lambda f: flags.discard(int(f)),
            capabilities={}, profiles=[], timing=None,
        )  # fmt: skip
        config.set_compute_capability = lambda value, i: config.capabilities.update({i: value.name}) or True
        config.add_optimization_profile = config.profiles.append
        config.create_timing_cache = lambda data: SimpleNamespace(given=data, serialize=lambda: data + b"+")
        config.set_timing_cache = lambda cache, mismatch: setattr(config, "timing", cache)
        config.get_timing_cache = lambda: config.timing
        return config

    def _build(self, network: Any, config: Any) -> bytes | None:
        self.configs.append(config)
        if "build" in self.fail:
            self.log.log(SimpleNamespace(name="ERROR"), self.error)
            return None
        names = {"FLOAT": "Float", "HALF": "Half", "BF16": "BFloat16", "INT8": "Int8"}
        precision = self.built or names[network.layers[0]._dtype.name]
        if self.verbose_layers:
            inputs = f"Inputs: [ {{ Name: x, Datatype: {precision} }}]"
            text = f"Layers:\nName: Conv_1, LayerType: correlation, {inputs}, Constants: []"
            self.log.log(SimpleNamespace(name="VERBOSE"), text)
        return self.plan(precision=precision)

    # Running

    def Runtime(self, log: Any) -> Any:  # noqa: N802
        self.log = log
        return SimpleNamespace(deserialize_cuda_engine=self._deserialise)

    def _refuse(self, what: str) -> bool:
        if what in self.fail:
            self.log.log(SimpleNamespace(name="ERROR"), self.error)
        return what in self.fail

    def _deserialise(self, plan: bytes) -> Any:
        if self._refuse("deserialise"):
            return None
        return _Engine(self, json.loads(plan))


class _Engine:
    num_io_tensors = 2

    def __init__(self, module: FakeTensorrt, plan: dict[str, Any]) -> None:
        self._module, self.plan = module, plan
        if module.__name__ == "tensorrt_rtx":
            self.create_runtime_config = self._runtime_config

    def create_engine_inspector(self) -> Any:
        layers = [{"LayerType": "correlation", "Inputs": [{"Datatype": self.plan["precision"]}]}]
        return SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": layers}))

    def get_tensor_name(self, index: int) -> str:
        return (self.plan["input"], "margins")[index]

    def get_tensor_mode(self, name: str) -> int:
        mode = self._module.TensorIOMode
        return mode.OUTPUT if name == "margins" else mode.INPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch, _, *roi = self.plan["shape"]
        return (batch, 2 if name == "margins" else 1, *roi)

    def _runtime_config(self) -> Any:
        module = self._module

        def deserialize(data: bytes) -> bool:
            module.jit_given.append(data)
            return True

        cache = SimpleNamespace(serialize=lambda: module.jit_stored, deserialize=deserialize)
        config = SimpleNamespace(create_runtime_cache=lambda: cache, cuda_graph_strategy=None)
        config.set_runtime_cache = lambda c: setattr(config, "cache", c)
        return config

    def create_execution_context(self, config: Any = None) -> Any:
        if self._module._refuse("context"):
            return None
        context = _Context(self, self._module, config)
        self._module.contexts.append(context)
        return context


class _Context:
    def __init__(self, engine: _Engine, module: FakeTensorrt, config: Any) -> None:
        self._engine, self._module, self.config = engine, module, config
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.executed = 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        fixed = next(iter(self.shapes.values()), self._engine.plan["shape"])
        return (fixed[0], 2 if name == "margins" else 1, *fixed[2:])

    def execute_async_v3(self, stream: int) -> bool:
        if self._module._refuse("execute"):
            return False
        self.executed += 1
        shape = self.get_tensor_shape("image")
        source, target = self.addresses[self._engine.plan["input"]], self.addresses["margins"]

        def compute() -> None:
            answer = network(array_at(source, shape, np.float32))
            array_at(target, answer.shape, np.float32)[...] = answer

        self._module.driver.queue(stream, compute)
        return True
