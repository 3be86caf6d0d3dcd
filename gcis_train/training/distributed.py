"""Several processes, one training: who this process is, and sums over all of them.

Gradients are summed here and not by `DistributedDataParallel`: that averages the processes' own means, which
is wrong where they hold unequal numbers of (window, prompt) rows, and it hooks the forward pass of one
module, where a step calls encoder, decoder and routers apart (docs/decisions/0011).
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
"""Numbers summed at once: 64 MiB of gradients."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those of the training.

    Attributes:
        rank: Its number, from 0; process 0 writes.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and shows progress."""
        return self.rank == 0

    def add(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes; returns it.

        Raises:
            ProcessError: Another process is gone, or did not answer in time.
        """
        if self.world > 1:
            with _answered():
                dist.all_reduce(tensor)
        return tensor

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their sums; a parameter that no process has a gradient for keeps none.

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
        """Give every process the first one's tensors.

        Raises:
            ProcessError: See `add`.
        """
        if self.world > 1:
            with torch.no_grad(), _answered():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)


def current() -> Processes:
    """Return what torch knows: one process, unless `connected` joined several."""
    if not dist.is_initialized():
        return Processes()
    return Processes(rank=dist.get_rank(), world=dist.get_world_size())


def local_device(device: torch.device) -> torch.device:
    """Return this process's own GPU where several processes share a machine (`LOCAL_RANK`)."""
    if str(device) != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


@contextlib.contextmanager
def connected(device: torch.device, *, minutes: float) -> Iterator[Processes]:
    """Join the processes that `torchrun` started (`WORLD_SIZE` in the environment), or stay alone.

    Args:
        device: CUDA talks by NCCL, the CPU by gloo.
        minutes: Longest wait for another process.

    Raises:
        DataError: Fewer GPUs than processes on this machine.
        ProcessError: The others cannot be reached.
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
                fix="Lower torchrun's --nproc-per-node.",
            )
        torch.cuda.set_device(device)
    with _answered():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=datetime.timedelta(minutes=minutes))
    yield current()
    # Only after a good end: where a process failed, waiting for the others would hang.
    dist.destroy_process_group()


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Turn the back ends' errors into one line."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            "another process of the training is gone or does not answer",
            received=" ".join(str(error).split())[:200],
            fix="See its error; then run the same command with --resume. Checkpoints are intact.",
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
