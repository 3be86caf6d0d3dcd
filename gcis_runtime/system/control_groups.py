"""List the control groups of Linux that limit this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def control_groups(controller: str, cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> Iterator[Path]:
    """Yield the folders of all control groups that limit this process: its own and its parents.

    In a container with its own namespace the group is the root of the mount, otherwise a folder below it.

    Args:
        controller: `"cpu"` or `"memory"`.
        cgroup: Mount point of the control groups (version 2, or version 1 in one folder per controller).
        membership: File that lists the control groups of this process.
    """
    yield cgroup
    for name in {"cpu": ("cpu", "cpu,cpuacct")}.get(controller, (controller,)):
        yield cgroup / name
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number != "0" and controller not in controllers.split(","):
            continue
        root = cgroup / controllers if controllers else cgroup
        for mount in {root, cgroup / controller} if controllers else {root}:
            below = PurePosixPath(path.strip("/"))
            yield from (mount / part for part in (below, *below.parents))
