"""What `scale` runs: a base case, and one axis after another along which it is changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from gcis_runtime.spec import Shape3, Triple

Axis = Literal["volume", "overlap", "prompts", "threads", "cohort", "workers"]
AXES: tuple[Axis, ...] = get_args(Axis)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Values along each axis, and the case that is the same along all others.

    Attributes:
        volumes: Shapes of the CT file.
        overlaps: Of windows.
        prompts: Structures of a bundle with random weights.
        threads: CPU threads of a process.
        cohorts: Images of one process.
        workers: Processes side by side; the threads are divided among them.
        base: Shape of the file along every axis but the first.
        voxel: The file's voxel size in mm.
        worker_cases: Images of each worker.
    """

    volumes: tuple[Shape3, ...]
    overlaps: tuple[float, ...]
    prompts: tuple[int, ...]
    threads: tuple[int, ...]
    cohorts: tuple[int, ...]
    workers: tuple[int, ...]
    base: Shape3
    voxel: Triple
    worker_cases: int


def default_plan(cpus: int) -> Plan:
    """Return the plan for a machine with that many processors; minutes on two."""
    powers = tuple(2**n for n in range(cpus.bit_length()) if 2**n <= cpus)
    return Plan(
        volumes=(
            (64, 64, 64),
            (128, 128, 128),
            (256, 256, 256),
            (512, 512, 200),
            (512, 512, 400),
            (512, 512, 800),
        ),
        overlaps=(0.0, 0.25, 0.5, 0.625, 0.75),
        prompts=(1, 2, 4, 8),
        threads=powers,
        cohorts=(1, 2, 4),
        workers=powers,
        base=(320, 320, 256),
        voxel=(0.8, 0.8, 1.0),
        worker_cases=2,
    )


def quick_plan() -> Plan:
    """Return two small values along each axis: whether it works, not what it costs."""
    return Plan(
        volumes=((64, 64, 64), (96, 96, 96)),
        overlaps=(0.0, 0.5),
        prompts=(1, 2),
        threads=(1, 2),
        cohorts=(1, 2),
        workers=(1, 2),
        base=(64, 64, 64),
        voxel=(4.0, 4.0, 4.0),
        worker_cases=1,
    )


def copies(image: Path, count: int) -> tuple[Path, ...]:
    """Return `count` images that are one file: links beside it."""
    links = [image.with_name(f"{number}_{image.name}") for number in range(count)]
    for link in links:
        if not link.exists():
            link.symlink_to(image.name)
    return tuple(links)
