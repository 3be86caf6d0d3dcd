"""Divide the nodes of a cluster into slots for workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gcis_runtime.fleet.needs import Needs
from gcis_runtime.fleet.pool import Slot
from gcis_runtime.system.memory import bytes_text
from gcis_runtime.text import counted


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of a cluster and all its resources, also those that are in use.

    Attributes:
        name: Unique name.
        place: The node as users know it.
        cpus: CPUs.
        gpus: GPUs.
        memory: Memory in bytes.
    """

    name: str
    place: str
    cpus: int
    gpus: int
    memory: int

    @property
    def text(self) -> str:
        """The node and its resources."""
        gpus = f", {counted(self.gpus, 'GPU')}" if self.gpus else ""
        return f"{self.place}: {counted(self.cpus, 'CPU')}{gpus}, {bytes_text(self.memory)}"


def divide(nodes: Sequence[Node], needs: Sequence[Needs], *, threads: int | None, gpu: bool) -> list[Slot]:
    """Return the slots of all nodes.

    A node has one worker per GPU, or with an engine on the CPU one per `threads` CPUs, and fewer if they
    could not hold the largest case that the node could hold alone. A worker requests the memory of the
    largest case that fits into its share of the node.

    Args:
        nodes: Nodes that are alive.
        needs: Memory of the cases.
        threads: CPUs of a worker; None for all CPUs of the node, or its share per GPU.
        gpu: Whether a worker needs a GPU.
    """
    return [slot for node in nodes for slot in _slots(node, needs, threads=threads, gpu=gpu)]


def _slots(node: Node, needs: Sequence[Needs], *, threads: int | None, gpu: bool) -> list[Slot]:
    most = node.gpus if gpu else 1
    cpus = threads or node.cpus // max(most, 1)
    if threads is not None and not gpu:
        most = node.cpus // threads
    elif cpus < 1 and node.cpus > 0:
        cpus = 1
    most = min(most, node.cpus // cpus) if cpus else 0
    largest = max((n.least for n in needs if n.least <= node.memory), default=None)
    if most < 1 or largest is None:
        return []
    count = max(1, min(most, node.memory // max(largest, 1)))
    share = node.memory // count
    request = max(min(n.usual, share) for n in needs if n.least <= share)
    return [
        Slot(node=node.name, number=number, place=node.place, cpus=cpus, gpus=1 if gpu else 0, memory=request)
        for number in range(count)
    ]
