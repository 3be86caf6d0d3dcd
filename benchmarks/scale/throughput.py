"""Plan a cohort: estimate time and cost of a number of scans on a number of nodes.

The result is a model from measured constants, not a measurement; `ASSUMPTIONS` lists its assumptions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from benchmarks.scale.fits import fit
from gcis_runtime.spec import Shape3

ASSUMPTIONS = (
    "A node is a machine like the one that was measured, and does nothing else.",
    "All scans have the shape named here, and the voxel size and bundle that were measured.",
    "Seconds of a scan are those of one run with an open engine: in a cohort the next scan is read and the "
    "last one written meanwhile, so that it is rather faster.",
    "Workers of a node gain at this shape what they gained together at the shape they were measured with.",
    "A worker needs the memory of one run at this shape; a node has it for all its workers.",
    "Scans are divided evenly; the node with one more is the last to end. A worker starts its engine once.",
    "Files lie on each node's own disk: copying them, queues and the start of a machine are not counted.",
    "A node is paid by the second, from its start to the end of the last node's work.",
    "No scan fails, none is done twice.",
)
"""Assumptions of the model; check them against your own case."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """Measured constants of one node.

    Attributes:
        seconds_per_scan: Seconds of one process with all threads of the node and an open engine.
        source: Origin of that number: a row at the shape of the scan, or a line through other rows.
        start_seconds: Seconds from the start of a process to an open engine.
        workers: Number of processes side by side with the highest rate.
        gain: That rate divided by the rate of one process.
        peak_memory_mb: Peak memory of one process.
    """

    seconds_per_scan: float
    source: str
    start_seconds: float
    workers: int
    gain: float
    peak_memory_mb: float


def constants(record: dict[str, Any], scan: Shape3) -> Constants:
    """Return the constants of a scan from a record of `scale` with the axes volume and workers.

    Args:
        record: Record of `scale`.
        scan: Shape of the CT files.
    """
    volumes, workers = record["rows"]["volume"], record["rows"]["workers"]
    same = [row for row in volumes if tuple(row["shape"]) == scan]
    if same:
        seconds, memory, source = (
            same[0]["cases_seconds"],
            same[0]["peak_memory_mb"],
            "measured at this shape",
        )
    else:
        size = math.prod(scan) / 1e6
        sizes = [row["megavoxels"] for row in volumes]
        seconds = fit(sizes, [row["cases_seconds"] for row in volumes]).at(size)
        memory = fit(sizes, [row["peak_memory_mb"] for row in volumes]).at(size)
        source = f"line through {len(volumes)} shapes"
    rates = {row["workers"]: row["cases"] / row["cases_seconds"] for row in workers}
    best = max(rates, key=lambda n: rates[n])
    return Constants(
        seconds_per_scan=seconds,
        source=source,
        start_seconds=max(row["start_seconds"] for row in workers),
        workers=best,
        gain=rates[best] / rates[min(rates)],
        peak_memory_mb=memory,
    )


def plan_cohort(
    known: Constants, *, scans: int, nodes: Sequence[int], price: float | None
) -> list[dict[str, Any]]:
    """Model a cohort.

    Args:
        known: Constants of one node.
        scans: Number of scans.
        nodes: Numbers of nodes to plan for.
        price: Price of a node for one hour, in any currency; None leaves out the cost.

    Returns:
        For each number of nodes: hours until the last scan is done, scans per hour, node hours, and cost per
        1000 scans.

    Raises:
        ValueError: There is no scan or no node.
    """
    if scans < 1 or min(nodes, default=0) < 1:
        raise ValueError(f"expected at least one scan and one node: received {scans} and {list(nodes)}")
    rows = []
    for count in nodes:
        share = math.ceil(scans / count)
        seconds = known.start_seconds + share * known.seconds_per_scan / known.gain
        node_hours = count * seconds / 3600
        row: dict[str, Any] = {
            "nodes": count,
            "hours": round(seconds / 3600, 3),
            "scans_per_hour": round(3600 * scans / seconds, 1),
            "node_hours": round(node_hours, 3),
        }
        if price is not None:
            row["cost_per_1000_scans"] = round(1000 * node_hours * price / scans, 4)
        rows.append(row)
    return rows


def model(
    record: dict[str, Any], *, scan: Shape3, scans: int, nodes: Sequence[int], price: float | None
) -> dict[str, Any]:
    """Return constants, assumptions and rows for a record, ready for JSON; see `plan_cohort`."""
    known = constants(record, scan)
    return {
        "scan": list(scan),
        "scans": scans,
        "price_per_node_hour": price,
        "constants": dataclasses.asdict(known),
        "assumptions": list(ASSUMPTIONS),
        "rows": plan_cohort(known, scans=scans, nodes=nodes, price=price),
    }
