"""Simulate ONNX Runtime's CUDA provider by a session on the CPU that computes in the fake GPU's memory.

Page-locked buffers of a run are freed as in ONNX Runtime 1.31: at the end of a synchronous run that succeeds,
otherwise by the destructor of the session; both in a host function on the stream, which holds a reference to
the allocator. `FakeDriver.aborts` records what would end a real process.

With `enable_cuda_graph`, the first run of a thread is recorded after it succeeded, and later runs of this
thread replay the operators at the addresses of the recording. A run with `gpu_graph_id` -1 does neither.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.support.fake_cuda import FakeDriver
from tests.support.numpy_kernels import array_at

_ASYNCHRONOUS = "disable_synchronize_execution_providers"
_GRAPH_ID = "gpu_graph_id"


def _entry(options: Any, name: str) -> str | None:
    with contextlib.suppress(Exception):  # ONNX Runtime raises for an entry that is not set
        found: str = options.get_run_config_entry(name)
        return found
    return None


class Arena:
    """The allocator of page-locked memory, destroyed with its last reference."""

    def __init__(self, driver: FakeDriver) -> None:
        self._driver, self.references = driver, 1

    def drop(self, *, in_host_function: bool) -> None:
        self.references -= 1
        if self.references == 0 and in_host_function:
            self._driver.aborts.append("CUDA failure 800: operation not permitted; expr=cudaFreeHost(p)")


class Bound:
    """What a test sees of a session: its options and bindings, also after the session was destroyed."""

    on_cpu: Any = frozenset()
    """Types of operators that the CUDA provider has no kernel for."""

    def __init__(self, real: Any, driver: FakeDriver, options: dict[str, str]) -> None:
        self.real, self.driver, self.options = real, driver, options
        self.stream = int(options["user_compute_stream"])
        self.bound: dict[str, Any] = {}
        self.runs: list[bool] = []
        self.arena, self.deferred, self.destroyed = Arena(driver), False, False
        self.fail: Exception | None = None
        self.fails_while_recording = False
        self.graphs: dict[threading.Thread, Callable[[], None]] = {}
        self.replays = 0

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def compute(self, options: Any) -> None:
        """Run once; the outcome for page-locked buffers depends on success and synchronisation."""
        synchronous = _entry(options, _ASYNCHRONOUS) != "1"
        self.runs.append(synchronous)
        recorded = self.options.get("enable_cuda_graph") == "1" and _entry(options, _GRAPH_ID) != "-1"
        thread = threading.current_thread()
        if recorded and thread in self.graphs and self.fail is None:
            self.replays += 1
            self.driver.queue(self.stream, self.graphs[thread])
        else:
            self.deferred = True
            if self.fail is None:
                network = self.network()
                self.driver.queue(self.stream, network)
                if synchronous:
                    self.free_buffers()
                if recorded:
                    self.record(thread, network)
        if synchronous:
            self.driver.cuStreamSynchronize(self.stream)
        if self.fail is not None:
            raise self.fail

    def network(self) -> Callable[[], None]:
        """Return the operators, at the addresses that are bound now."""
        (_, _, _, shape, source), (_, _, _, answer, target) = self.bound["image"], self.bound["margins"]

        def network() -> None:
            window = np.array(array_at(source, shape, np.float32))
            array_at(target, answer, np.float32)[...] = self.real.run(["margins"], {"image": window})[0]

        return network

    def record(self, thread: threading.Thread, network: Callable[[], None]) -> None:
        """Record the operators as the CUDA graph of a thread."""
        self.driver.cuStreamSynchronize(self.stream)
        if self.fails_while_recording:
            self.driver.cuStreamBeginCapture(self.stream, 0)
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
        self.graphs[thread] = network

    def free_buffers(self) -> None:
        """Queue the host function that frees the page-locked buffers."""
        if self.deferred:
            self.deferred = False
            self.arena.references += 1
            self.driver.queue(self.stream, lambda: self.arena.drop(in_host_function=True))

    def destroy(self) -> None:
        """Act as the destructor of the session."""
        self.destroyed = True
        if self.stream not in self.driver.alive:
            self.driver.aborts.append("the session was destroyed after its stream")
            return
        if not self.driver.contexts:
            self.driver.aborts.append("the session was destroyed in a thread without a context")
        if self.driver.alive[self.stream].queue:
            self.driver.aborts.append("the session was destroyed before its work had ended")
        if self.driver.alive[self.stream].capture is not None:
            self.driver.aborts.append("the session was destroyed while its stream was recording")
        self.free_buffers()
        self.arena.drop(in_host_function=False)


class Session:
    """What `ort.InferenceSession` returns; destroyed with the last reference to it."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bound.real, name)

    def __del__(self) -> None:
        self._bound.destroy()

    def get_providers(self) -> list[str]:
        return self._bound.get_providers()

    def get_provider_graph_assignment_info(self) -> list[Any]:
        """Return the assignment of the real session, as if all operators except `on_cpu` were on the GPU."""
        parts = self._bound.real.get_provider_graph_assignment_info()
        assert {part.ep_name for part in parts} == {"CPUExecutionProvider"}
        names = {False: "CUDAExecutionProvider", True: "CPUExecutionProvider"}
        return [
            SimpleNamespace(
                ep_name=names[node.op_type in self._bound.on_cpu], get_nodes=lambda node=node: [node]
            )
            for part in parts
            for node in part.get_nodes()
        ]

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
        assert binding.session is self
        self._bound.compute(options)


def install(ort: Any, driver: FakeDriver, change: Callable[[Any, str, Any], None]) -> list[Bound]:
    """Replace the functions of ONNX Runtime that need a GPU.

    Args:
        ort: The module `onnxruntime`.
        driver: The fake driver.
        change: Sets an attribute of the module, such as `monkeypatch.setattr`.

    Returns:
        The sessions that were made so far, a list that grows.
    """
    made: list[Bound] = []
    real = ort.InferenceSession

    def start(file: str, options: Any = None, providers: Any = ()) -> Any:
        if len(providers) == 1:  # on the CPU
            return real(file, options, providers=providers)
        (name, settings), cpu = providers
        assert (name, cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
        if settings.get("enable_cuda_graph") == "1" and Bound.on_cpu:
            raise RuntimeError("This session cannot use the graph capture feature: nodes are not on CUDA")
        made.append(Bound(real(file, options, providers=[cpu]), driver, settings))
        return Session(made[-1])

    change(ort, "InferenceSession", start)
    change(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    change(ort, "preload_dlls", lambda: None)
    return made


class Binding:
    """The binding of a session, which it keeps alive."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def bind_input(self, name: str, kind: str, index: int, dtype: Any, shape: Any, address: int) -> None:  # noqa: PLR0917
        self.session._bound.bound[name] = (kind, index, dtype, tuple(shape), address)

    bind_output = bind_input
