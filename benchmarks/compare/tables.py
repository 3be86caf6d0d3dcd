"""Format the tables of the comparison: one per case for docs/performance.md, and a summary for README.md."""

from __future__ import annotations

from typing import Any

from benchmarks.records import newest
from gcis_runtime.latency.record_file import hardware_text
from gcis_runtime.latency.tables import table

TRAINED, LARGE = "compare-12-64", "compare-48-96"
_COMMANDS = {
    TRAINED: "python -m benchmarks compare --bundle demo12.gcis",
    LARGE: "python -m benchmarks compare --case 48/96",
}


def trained_block() -> str:
    """Return the tables of feature size 12 and windows of 64 voxels, with trained weights."""
    return block(newest(TRAINED), command=_COMMANDS[TRAINED])


def large_block() -> str:
    """Return the tables of feature size 48 and windows of 96 voxels, with seeded weights."""
    return block(newest(LARGE), command=_COMMANDS[LARGE])


def block(record: dict[str, Any], *, command: str) -> str:
    """Return the tables of a record as Markdown, with machine and settings."""
    parts = []
    for ladder in record["ladders"]:
        what = _structures(ladder).capitalize()
        voxels = " x ".join(map(str, ladder["voxels"]))
        head = f"{what}, {record['image']}, {voxels} voxels, {_windows(ladder)} windows. {_sharing(ladder)}"
        parts += [head.strip(), _ladder(record, ladder)]
    parts.append(f"{aims_text(record)} {setting_text(record)} {record['note']} Repeat with `{command}`.")
    return "\n\n".join(parts)


def _ladder(record: dict[str, Any], ladder: dict[str, Any]) -> str:
    """Return one table: times, and agreement for trained weights."""
    head = ["way", "whole process (s)", "times faster", "least to most", "CPU s", "times fewer"]
    head += ["seconds per window", "memory (MB)"]
    trained = record["trained"]
    if trained:
        head += ["labels equal to (a)", "labels equal to (c)", "Dice with (c)", "Dice with the truth"]
    rows = []
    for row in ladder["rows"]:
        if "unavailable" in row:
            rows.append([row["title"], f"not measured: {row['unavailable']}", *[""] * (len(head) - 2)])
            continue
        cells = [
            row["title"],
            f"{row['whole_seconds']:.1f}",
            *_ratio(row["times_faster"]),
            "" if row.get("cpu_seconds") is None else f"{row['cpu_seconds']:.1f}",
            _ratio(row["times_faster_cpu"])[0],
            f"{row['seconds_per_window']:.3f}",
            str(row["peak_memory_mb"] or ""),
        ]
        if trained:
            same = row["agreement"]
            cells += [_share(same.get(way)) for way in ("published", "static")]
            cells += [_dice(same.get("static", {}).get("dice")), _dice(row.get("dice_truth"))]
        rows.append(cells)
    return table(head, rows)


def ladder_block() -> str:
    """Return all cases and numbers of structures side by side, and the agreement of the trained case."""
    trained, large = newest(TRAINED), newest(LARGE)
    ladders = [
        (record, ladder)
        for record in (trained, large)
        for ladder in sorted(record["ladders"], key=lambda ladder: len(ladder["prompts"]))
    ]
    every = max(trained["ladders"], key=lambda ladder: len(ladder["prompts"]))
    columns = [{row["way"]: row for row in ladder["rows"]} for _, ladder in ladders]
    agreed = {row["way"]: row for row in every["rows"]}
    head = [f"{_size(record)}, {_structures(ladder)}" for record, ladder in ladders]
    rows = []
    for way, row in columns[0].items():
        cells = [_seconds_and_times(column.get(way)) for column in columns]
        if any(cells):
            rows.append([row["title"], *cells, _share(agreed[way].get("agreement", {}).get("static"))])
    windows = ", ".join(_windows(ladder) for _, ladder in ladders)
    dates = sorted({record["environment"]["date"][:10] for record in (trained, large)})
    note = (
        "Seconds of whole processes from file to label map, and how many times faster than (a). (a) and (b) "
        "run the network once per structure. All take labels of the nearest voxel; the published code "
        "stretches them by array shape. 12/64 is feature size 12 and windows of 64 voxels with the "
        "weights of the earlier demo bundle; 48/96 is the published size with seeded weights, which serve "
        f"for time only. Agreement is that of {_structures(every)} at 12/64. Windows per column: {windows}. "
        f"{_sharing(every)}"
        f"{' and '.join(dates)}, {hardware_text(large)}. "
        f"Repeat with `{_COMMANDS[TRAINED]}` and `{_COMMANDS[LARGE]}`. "
        "All numbers are in docs/performance.md."
    )
    return table(["", *head, f"labels equal to (c), {_size(trained)}"], rows) + f"\n\n{note}"


def _size(record: dict[str, Any]) -> str:
    return f"{record['feature_size']}/{record['roi'][0]}"


def _structures(ladder: dict[str, Any]) -> str:
    count = len(ladder["prompts"])
    return "one structure" if count == 1 else f"{count} structures"


def _windows(ladder: dict[str, Any]) -> str:
    return str(next(row["windows"] for row in ladder["rows"] if "windows" in row))


def _seconds_and_times(row: dict[str, Any] | None) -> str:
    """Return seconds and ratio of a way; an empty text if it was not measured."""
    if row is None or "unavailable" in row:
        return ""
    times = _ratio(row["times_faster"])[0]
    return f"{row['whole_seconds']:.1f} s" + (f", {times} x" if times else "")


def _sharing(ladder: dict[str, Any]) -> str:
    """Describe the blocks that the pathways of the structures share."""
    blocks = ladder.get("blocks_at_each_position")
    if blocks is None or len(ladder["prompts"]) == 1:
        return ""
    return (
        f"The pathways of the {_structures(ladder)} use {', '.join(map(str, blocks))} blocks at the seven "
        "positions; shared blocks are computed once in (c) to (e). "
    )


AIMS = {"openvino fp32": (6.0, 0.9999), "openvino bf16": (20.0, 0.995)}
"""Targets: times faster than (a) as whole processes, and share of labels equal to (c)."""


def aims_text(record: dict[str, Any]) -> str:
    """Describe for each number of structures which targets were reached."""
    texts = []
    for ladder in sorted(record["ladders"], key=lambda ladder: len(ladder["prompts"])):
        rows = {row["way"]: row for row in ladder["rows"]}
        found = [_aim_text(rows[way], way, record["trained"]) for way in AIMS]
        if any(found):
            texts.append(f"Targets, {_structures(ladder)}: {'; '.join(text for text in found if text)}.")
    return " ".join(texts)


def _aim_text(row: dict[str, Any], way: str, trained: bool) -> str:
    """Describe the target of a way, with labels for trained weights; an empty text without a ratio."""
    if "unavailable" in row or row["times_faster"] is None:
        return ""
    aim, share = AIMS[way]
    times = row["times_faster"]["median"]
    text = f"{way}: {times:.1f} times, target {aim:g} ({_reached(times >= aim)})"
    if trained and "static" in row["agreement"]:
        equal = row["agreement"]["static"]["labels_equal"]
        text += f" at {equal:.3%} equal labels, target {share:.2%} ({_reached(equal >= share)})"
    return text


def _reached(it_was: bool) -> str:
    return "reached" if it_was else "not reached"


def setting_text(record: dict[str, Any]) -> str:
    """Describe network, machine, date and number of turns."""
    e = record["environment"]
    return (
        f"Feature size {record['feature_size']}, windows of {record['roi'][0]}, overlap "
        f"{record['overlap']:g}; weights: {record['weights']}. {e['date'][:10]}, {hardware_text(record)}, "
        f"scheduling {e.get('scheduling')}, commit {e['commit']}; "
        f"{record['rounds']} turns of each engine, {record['slow_rounds']} of (a) to (c)."
    )


def _ratio(ratio: dict[str, float] | None) -> tuple[str, str]:
    if ratio is None:
        return "", ""
    return f"{ratio['median']:.1f}", f"{ratio['least']:.1f} to {ratio['most']:.1f}"


def _share(agreement: dict[str, Any] | None) -> str:
    return "" if agreement is None else f"{agreement['labels_equal']:.3%}"


def _dice(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
