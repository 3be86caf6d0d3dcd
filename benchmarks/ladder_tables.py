"""The ladder's tables: a block a case for docs/performance.md, both cases side by side for the README."""

from __future__ import annotations

from typing import Any

from benchmarks.latency_report import table
from benchmarks.records import hardware_text, newest

TRAINED, LARGE = "compare-12-64", "compare-48-96"
_COMMANDS = {
    TRAINED: "python -m benchmarks compare",
    LARGE: "python -m benchmarks compare --case 48/96 --calibration 1",
}


def trained_block() -> str:
    """Return the ladder of feature size 12 at 64 voxels, with trained weights."""
    return block(newest(TRAINED), command=_COMMANDS[TRAINED])


def large_block() -> str:
    """Return the ladder of feature size 48 at 96 voxels, with seeded weights."""
    return block(newest(LARGE), command=_COMMANDS[LARGE])


def block(record: dict[str, Any], *, command: str) -> str:
    """Return a record's ladders as Markdown, with what they were measured on."""
    parts = []
    for ladder in record["ladders"]:
        count = len(ladder["prompts"])
        what = "One structure" if count == 1 else f"{count} structures"
        voxels = " x ".join(map(str, ladder["voxels"]))
        parts += [f"{what}, {record['image']}, {voxels} voxels:", _ladder(record, ladder)]
    parts.append(f"{aims_text(record)} {setting_text(record)} {record['note']} Repeat with `{command}`.")
    return "\n\n".join(parts)


def _ladder(record: dict[str, Any], ladder: dict[str, Any]) -> str:
    """Return one ladder: times, and agreement where the weights were trained."""
    head = ["way", "whole process (s)", "times faster", "least to most", "CPU s", "times fewer"]
    head += ["seconds a window", "memory (MB)"]
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
            cells += [_share(same.get(way), "labels_equal") for way in ("published", "static")]
            cells += [_dice(same.get("static", {}).get("dice")), _dice(row.get("dice_truth"))]
        rows.append(cells)
    return table(head, rows)


def ladder_block() -> str:
    """Return both cases side by side for the README: times of one structure, agreement of the trained one."""
    trained, large = newest(TRAINED), newest(LARGE)
    ladders = [
        min(record["ladders"], key=lambda ladder: len(ladder["prompts"])) for record in (trained, large)
    ]
    every = trained["ladders"][0]
    small, big, agreed = ({row["way"]: row for row in ladder["rows"]} for ladder in (*ladders, every))
    head = [
        "",
        "12/64: seconds",
        "times faster",
        "48/96: seconds",
        "times faster",
        "labels equal to (c), 12/64",
    ]
    rows = []
    for way, row in big.items():
        if any("unavailable" in ladder.get(way, {"unavailable": ""}) for ladder in (small, big, agreed)):
            continue
        cells = [row["title"]]
        for ladder in (small, big):
            cells += [f"{ladder[way]['whole_seconds']:.1f}", _ratio(ladder[way]["times_faster"])[0]]
        rows.append([*cells, _share(agreed[way]["agreement"].get("static"), "labels_equal")])
    windows = [next(iter(ladder.values()))["windows"] for ladder in (small, big)]
    note = (
        "One structure from file to label map, whole processes in turns; 12/64 is feature size 12 and "
        f"windows of 64 voxels with the demo's weights ({windows[0]} windows; agreement of all "
        f"{len(every['prompts'])} structures), 48/96 has seeded weights ({windows[1]} windows). "
        f"{large['environment']['date'][:10]}, {hardware_text(large)}. "
        f"Repeat with `{_COMMANDS[TRAINED]}` and `{_COMMANDS[LARGE]}`. "
        "All numbers: docs/performance.md."
    )
    return table(head, rows) + f"\n\n{note}"


AIMS = {"openvino fp32": (6.0, 0.9999), "openvino bf16": (20.0, 0.995)}
"""What was aimed at: times faster than (a) as whole processes, and share of labels equal to (c)."""


def aims_text(record: dict[str, Any]) -> str:
    """Say for each aim what was reached: time with one structure, labels with all of them."""
    alone = min(record["ladders"], key=lambda ladder: len(ladder["prompts"]))
    fast = {row["way"]: row for row in alone["rows"]}
    exact = {row["way"]: row for row in record["ladders"][0]["rows"]}
    said = []
    for way, (aim, share) in AIMS.items():
        if "unavailable" in fast[way] or fast[way]["times_faster"] is None:
            continue
        times = fast[way]["times_faster"]["median"]
        text = f"{way}: {times:.1f} times, {aim:g} aimed at ({_reached(times >= aim)})"
        if record["trained"] and "static" in exact[way]["agreement"]:
            equal = exact[way]["agreement"]["static"]["labels_equal"]
            text += f" at {equal:.3%} equal labels, {share:.2%} aimed at ({_reached(equal >= share)})"
        said.append(text)
    return f"Aims, one structure: {'; '.join(said)}."


def _reached(it_was: bool) -> str:
    return "reached" if it_was else "not reached"


def setting_text(record: dict[str, Any]) -> str:
    """Say what network, on what, when and how often."""
    e = record["environment"]
    return (
        f"Feature size {record['feature_size']}, windows of {record['roi'][0]}, overlap "
        f"{record['overlap']:g}; weights: {record['weights']}. {e['date'][:10]}, {hardware_text(record)}, "
        f"scheduling {e.get('scheduling')}, commit {e['commit']}; "
        f"{record['rounds']} turns of engines, {record['slow_rounds']} of (a) to (c)."
    )


def _ratio(ratio: dict[str, float] | None) -> tuple[str, str]:
    if ratio is None:
        return "", ""
    return f"{ratio['median']:.1f}", f"{ratio['least']:.1f} to {ratio['most']:.1f}"


def _share(agreement: dict[str, Any] | None, key: str) -> str:
    return "" if agreement is None else f"{agreement[key]:.3%}"


def _dice(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
