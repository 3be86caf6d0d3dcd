"""Generate tables of docs/performance.md from the records of `scale`, `peers` and `counted`."""

from __future__ import annotations

from typing import Any

from benchmarks.records import newest
from gcis_runtime.latency.record_file import hardware_text
from gcis_runtime.text import counted

_UNITS = {
    "seconds": "s, whole process",
    "cases_seconds": "s, engine open",
    "peak_memory_mb": "MB, peak",
    "cases_per_hour": "images per hour",
}
_WAYS = {
    "one process": "one process",
    "two shards": "two processes, `--shard`",
    "ray": "two workers, `--ray`",
}
_PER = {
    "megavoxels": "million voxels",
    "windows_computed": "window",
    "prompts": "prompt",
    "one_over_threads": "1 / threads",
    "threads": "thread",
    "cases": "image",
    "workers": "process",
}


def scale_table() -> str:
    """Return the fitted lines of each axis: range, intercept, slope and R2."""
    record = newest("scale")
    lines = [
        "| axis | from | to | quantity | intercept | slope | per | R2 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for axis, fits in record["fits"].items():
        ends = [_end(axis, row) for row in (record["rows"][axis][0], record["rows"][axis][-1])]
        for fit in fits:
            numbers = (f"{fit['intercept']:.3g}", f"{fit['slope']:.3g}", _PER[fit["x"]], f"{fit['r2']:.2f}")
            lines.append(f"| {' | '.join((axis, *ends, _UNITS[fit['y']], *numbers))} |")
    voxel = " x ".join(f"{v:g}" for v in record["voxel_mm"])
    engine = record["rows"]["volume"][0]["engine"]
    note = (
        f"Bundle `{record['bundle']}` on a grid of {record['network_spacing_mm']:g} mm ({engine}), CT files "
        f"of {voxel} mm tiled from a phantom, {_when(record)}. Repeat with `python -m benchmarks scale`."
    )
    return "\n".join([*lines, "", note])


def fleet_table() -> str:
    """Return what shards and Ray cost in comparison with one process, and assumptions for more workers."""
    record = newest("fleet")
    few, many = sorted({row["images"] for row in record["rows"]})
    rows = {(row["way"], row["images"]): row for row in record["rows"]}
    one = rows["one process", many]
    lines = [
        f"| way, one CPU per worker | s, {few} images | s, {many} images | CPU s, {many} images | CPU, ratio "
        "| CPU s per further image | CPU s to start |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in record["per_image"]:
        row = rows[found["way"], many]
        cells = (
            f"{rows[found['way'], few]['seconds']:.1f}", f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}",
            f"{row['cpu_seconds'] / one['cpu_seconds']:.2f}", f"{found['cpu_seconds_per_image']:.2f}",
            f"{found['cpu_seconds_of_start']:.1f}",
        )  # fmt: skip
        lines.append(f"| {_WAYS[found['way']]} | {' | '.join(cells)} |")
    note = (
        f"Bundle `{record['bundle']}`, {record['engine']}, {_shape(record)} voxels, medians of "
        f"{counted(record['rounds'], 'round')} in turns on {record['environment']['date'][:10]}: "
        f"{_machine(record)}. Load of the machine during the runs: {record['load'][0]:g}, so that seconds "
        "are not those of a quiet machine; CPU time depends less on other programs. The cluster was two "
        "nodes in a network namespace of this machine. Repeat with `python -m benchmarks scale --ray "
        "ADDRESS`. Assumptions for more workers:"
    )
    return "\n".join([*lines, "", note, "", *(f"- {line}" for line in record["assumptions"])])


def peers_table() -> str:
    """Return time and memory of each peer at every measured size."""
    records = [newest(f"peers-{size}") for size in ("12-64", "48-96")]
    lines = ["| | window | seconds | of which CPU | peak MB | parameters |", "|---|---|---|---|---|---|"]
    for record in records:
        for row in record["rows"]:
            size = f"{record['roi']}, feature size {record['feature_size']}"
            if "unavailable" in row:
                lines.append(f"| {row['peer']} | {size} | not run: {row['unavailable']} | | | |")
                continue
            cells = (f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}", str(row["peak_memory_mb"]))
            lines.append(
                f"| {row['peer']} | {size} | {' | '.join(cells)} | {row['parameters'] / 1e6:.1f} M |"
            )
    sizes = "; ".join(f"{_shape(r)} voxels, {r['windows']} windows of {r['roi']}" for r in records)
    note = (
        f"Random weights: time and memory only, no accuracy. {sizes}, overlap {records[0]['overlap']:g}, one "
        f"structure, {records[0]['threads']} threads, {_when(records[-1])}. nnU-Net places windows by its "
        "own rule. Repeat with `python -m benchmarks peers --rounds 1`, the larger one with "
        "`--feature-size 48 --roi 96 --shape 96 96 144`."
    )
    return "\n".join([*lines, "", note])


def counted_table() -> str:
    """Return the counts that CI compares with the last record."""
    record = newest("counted")
    found = record["counts"] | {k: v for k, v in record["instructions"].items() if isinstance(v, int)}
    lines = ["| count | last record | tolerance |", "|---|---|---|"]
    grids = [name for name in found if name.startswith("windows, ") and "overlap" in name]
    lines.append(f"| windows of {len(grids)} grids and overlaps | {sum(found[g] for g in grids):,} | none |")
    for name, value in found.items():
        if name in grids:
            continue
        tolerance = record["tolerances"][name.replace(",", " ").split(" ")[0]]
        lines.append(f"| {name} | {value:,} | {'none' if not tolerance else f'+{tolerance:.1%}'} |")
    note = f"Recorded {record['environment']['date'][:10]}. Renew with `python -m benchmarks counted`."
    return "\n".join([*lines, "", note])


def rewrites_table() -> str:
    """Return what each rewrite of the 16-bit graphs removes."""
    record = newest("counted")
    steps = record["rewrites"]["steps"]
    kinds = list(steps[0]["types"])
    lines = [f"| graph, then each rewrite | nodes | operators per window | GB moved | {' | '.join(kinds)} |"]
    lines.append("|" + "---|" * (4 + len(kinds)))
    for step in steps:
        cells = " | ".join(str(step["types"][kind]) for kind in kinds)
        name = step["step"] if " " in step["step"] or step["step"] == "float32" else f"`{step['step']}`"
        lines.append(
            f"| {name} | {step['nodes']} | {step['operators']} | {step['moved'] / 1e9:.2f} | {cells} |"
        )
    note = (
        f"Graph: {record['rewrites']['graph']}. Operators per window are the nodes that depend on the image, "
        "except Reshape; GB moved are the bytes that each of them reads and writes. Recorded "
        f"{record['environment']['date'][:10]}. Renew with `python -m benchmarks counted`."
    )
    return "\n".join([*lines, "", note])


def _end(axis: str, row: dict[str, Any]) -> str:
    """Return the value of a row along its axis."""
    if axis == "volume":
        return _shape({"voxels": row["shape"]})
    return str(row["cases" if axis == "cohort" else axis])


def _shape(record: dict[str, Any]) -> str:
    return " x ".join(map(str, record["voxels"]))


def _machine(record: dict[str, Any]) -> str:
    return hardware_text(record)


def _when(record: dict[str, Any]) -> str:
    return f"one run on {record['environment']['date'][:10]}: {_machine(record)}"


BLOCKS = {
    "scale-table": scale_table,
    "fleet-table": fleet_table,
    "peers-table": peers_table,
    "counted-table": counted_table,
    "rewrites-table": rewrites_table,
}
"""Functions that generate blocks, by name."""
