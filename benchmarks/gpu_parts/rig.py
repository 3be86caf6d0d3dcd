"""Time calls on a device, and measure its memory and the ceiling of a matrix product."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gcis_runtime.system.memory import peak_memory_bytes

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Rig:
    """Device with timing and memory measurement; clocks and power limits are not changed.

    Args:
        device: `"cuda"` or `"cpu"`.
        tiny: Toy sizes, for a test of the script.
    """

    def __init__(self, device: str, *, tiny: bool) -> None:
        self.device, self.tiny = torch.device(device), tiny
        self.cuda = self.device.type == "cuda"
        self.stream: Any = torch.cuda.Stream() if self.cuda else None  # type: ignore[no-untyped-call]
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.warmup, self.repeats = (0, 1) if tiny else (3, 10)

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        """Enqueue the work of the `with` block on the stream on which events are recorded."""
        with torch.cuda.stream(self.stream) if self.cuda else contextlib.nullcontext():
            yield

    def inputs(self, shape: tuple[int, ...], *, seed: int = 0) -> list[Tensor]:
        """Return different random inputs, so that successive timed calls do not get the same one."""
        count = 1 if self.tiny else 4
        generator = torch.Generator(self.device).manual_seed(seed)
        made = [torch.rand(shape, generator=generator, device=self.device) for _ in range(count)]
        self.synchronize()  # another stream reads them
        return made

    def time(self, call: Callable[[int], object], *, repeats: int | None = None) -> dict[str, Any]:
        """Time calls after a warm-up; `call` receives the number of the call.

        Returns:
            Median and all times in ms, and peak memory, ready for JSON.
        """
        with self.on_stream():
            for number in range(self.warmup):
                call(number)
            self.synchronize()
            if self.cuda:
                torch.cuda.reset_peak_memory_stats()
            taken = [self._once(call, self.warmup + i) for i in range(repeats or self.repeats)]
        return {
            "median_ms": round(statistics.median(taken), 4),
            "all_ms": [round(t, 4) for t in taken],
            **self.memory(),
        }

    def _once(self, call: Callable[[int], object], number: int) -> float:
        if not self.cuda:
            started = time.perf_counter()
            call(number)
            return 1e3 * (time.perf_counter() - started)
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        before.record(self.stream)
        call(number)
        after.record(self.stream)
        after.synchronize()
        return float(before.elapsed_time(after))

    def synchronize(self) -> None:
        """Wait for the device to finish all work."""
        if self.cuda:
            torch.cuda.synchronize()

    def memory(self) -> dict[str, Any]:
        """Return MB: peak of PyTorch and current use on the GPU, and peak of the process on the host.

        The current use on the GPU includes all libraries and processes.
        """
        found: dict[str, Any] = {"host_peak_mb": round((peak_memory_bytes() or 0) / 1e6)}
        if self.cuda:
            free, total = torch.cuda.mem_get_info()
            found["gpu_peak_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
            found["gpu_in_use_mb"] = round((total - free) / 1e6)
        return found

    def clear(self) -> None:
        """Free device memory, including that of a failed row."""
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    @contextlib.contextmanager
    def computing(self, precision: str) -> Iterator[None]:
        """Set the precision of PyTorch in the `with` block.

        Args:
            precision: `"fp16"` or `"bf16"`: autocast; `"fp32"`: float32 without TF32; `"default"`: PyTorch's
                defaults, in which convolutions on a GPU round their factors to TF32.
        """
        dtype = DTYPES.get(precision, torch.bfloat16)
        torch.backends.cudnn.allow_tf32 = precision == "default"
        try:
            with torch.autocast(self.device.type, dtype=dtype, enabled=precision in ("fp16", "bf16")):
                yield
        finally:
            torch.backends.cudnn.allow_tf32 = False

    def ceiling(self, precision: str) -> dict[str, Any]:
        """Time a large matrix product; `"tf32"` is float32 with TF32, `"fp32"` without."""
        side = 256 if self.tiny else 8192
        dtype = DTYPES.get(precision, torch.float32)
        pairs = [(a[0].to(dtype), a[1].to(dtype)) for a in self.inputs((2, side, side))]
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        try:
            found = self.time(lambda n: torch.mm(*pairs[n % len(pairs)]))
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False
        return {"side": side, **found, "gflops": round(2 * side**3 / found["median_ms"] / 1e6, 1)}
