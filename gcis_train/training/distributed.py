"""Connect the processes of a distributed training, and compute sums over all processes.

This module sums gradients itself instead of using `DistributedDataParallel`, which averages the means of the
processes (wrong for unequal numbers of (window, prompt) rows) and hooks the forward pass of a single module,
while a step calls encoder, decoder and routers separately (docs/decisions/0011).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gcis_runtime.errors import DataError, ProcessError

BUCKET = 16 * 2**20
"""Numbers per reduction: 64 MiB of float32 gradients."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """Rank of this process and number of processes of the training.

    Attributes:
        rank: Rank of this process, from 0; process 0 writes the run folder.
        world: Number of processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the run folder and displays progress."""
        return self.rank == 0

    def add(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes, and return it.

        Raises:
            ProcessError: Another process has ended or does not respond in time.
        """
        if self.world > 1:
            with _process_errors():
                dist.all_reduce(tensor)
        return tensor

    def agree(self, value: float) -> float:
        """Return the value of the first process.

        Raises:
            ProcessError: See `add`.
        """
        if self.world == 1:
            return value
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        return float(self.add(torch.tensor(value if self.first else 0.0, dtype=torch.float64, device=device)))

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their sums; a parameter without a gradient on any process keeps none.

        Raises:
            ProcessError: See `add`.
        """
        if self.world == 1 or not parameters:
            return
        device = parameters[0].device
        has = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
        wanted = [p for p, n in zip(parameters, self.add(has).tolist(), strict=True) if n > 0]
        for parameter in wanted:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets(wanted):
            grads = [p.grad for p in bucket if p.grad is not None]
            flat = self.add(torch.cat([g.flatten() for g in grads]))
            parts = torch.split(flat, [g.numel() for g in grads])
            for grad, part in zip(grads, parts, strict=True):
                grad.copy_(part.view_as(grad))

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Copy the tensors of the first process to all others.

        Raises:
            ProcessError: See `add`.
        """
        if self.world > 1:
            with torch.no_grad(), _process_errors():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)


def current() -> Processes:
    """Return rank and number of processes; a single process outside `connected`."""
    if not dist.is_initialized():
        return Processes()
    return Processes(rank=dist.get_rank(), world=dist.get_world_size())


def local_device(device: torch.device) -> torch.device:
    """Return the GPU of this process if several processes share a machine (`LOCAL_RANK`)."""
    if str(device) != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


@contextlib.contextmanager
def connected(device: torch.device, *, minutes: float) -> Iterator[Processes]:
    """Connect the processes that `torchrun` started (`WORLD_SIZE` in the environment), if there are several.

    Args:
        device: Device of this process; CUDA uses NCCL, the CPU gloo.
        minutes: Timeout for other processes.

    Yields:
        Rank of this process and number of processes.

    Raises:
        DataError: The machine has fewer GPUs than processes.
        ProcessError: Other processes cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise DataError(
                "there are fewer GPUs than processes",
                received=f"process {os.environ.get('LOCAL_RANK')} on a machine with {count}",
                expected="one GPU per process",
                fix="Lower torchrun's --nproc-per-node.",
            )
        torch.cuda.set_device(device)
    with _process_errors():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=datetime.timedelta(minutes=minutes))
    yield current()
    # Not in a finally block: after a failure, the call would wait for the other processes forever.
    dist.destroy_process_group()


@contextlib.contextmanager
def _process_errors() -> Iterator[None]:
    """Convert errors of the back ends to a one-line error."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            "another process of the training has ended or does not respond",
            received=" ".join(str(error).split())[:200],
            fix="Check the output of the other process, then run the same command with --resume. "
            "Checkpoints are intact.",
        ) from error


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
