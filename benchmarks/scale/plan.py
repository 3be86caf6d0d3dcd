"""Define the runs of `scale`: a base case, and the values along each axis."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from gcis_runtime.spec import Shape3, Triple

Axis = Literal["volume", "overlap", "prompts", "threads", "cohort", "workers"]
AXES: tuple[Axis, ...] = get_args(Axis)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Values along each axis, and the base case.

    Attributes:
        volumes: Shapes of the CT file.
        overlaps: Overlaps of windows.
        prompts: Numbers of structures of a bundle with random weights.
        threads: Numbers of CPU threads of a process.
        cohorts: Numbers of images of one process.
        workers: Numbers of processes side by side, which share the CPU threads.
        base: Shape of the CT file along every axis but the first.
        voxel: Voxel size of the CT file in mm.
        worker_cases: Images of each process along the axis `workers`.
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
    """Return the plan for a number of processors; it takes minutes on two."""
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
    """Return two small values along each axis, for a test of the command."""
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
    """Return `count` links to one image, created next to it."""
    links = [image.with_name(f"{number}_{image.name}") for number in range(count)]
    for link in links:
        if not link.exists():
            link.symlink_to(image.name)
    return tuple(links)
