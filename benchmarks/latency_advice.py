"""What a latency record says that its reader could change."""

from __future__ import annotations

from html import escape

from benchmarks.engine_run import STAGES
from benchmarks.latency_record import LatencyRecord, Row


def advice(record: LatencyRecord, close: Row | None, exact: Row | None) -> str:
    """Return the page's section "What to change" as HTML.

    Args:
        record: What was measured.
        close: The fastest engine that is accurate enough; None where none is.
        exact: The fastest one that is as exact as PyTorch.
    """
    items: list[str] = []
    if close is not None:
        items.append(f"For speed: {_command(record, close)} ({close.labels_equal:.3%} of labels equal).")
    if exact is not None and exact is not close:
        items.append(f"To be as exact as PyTorch: {_command(record, exact)} takes {exact.total.p50:.1f} s.")
    best = close or exact
    if best is not None:
        share = best.stages["network"].p50 / best.total.p50
        slowest = max((s for s in STAGES if s != "network"), key=lambda s: best.stages[s].p50)
        if share > 0.5:
            items.append(
                f"{share:.0%} of the time is the network: more or faster processor cores shorten it almost in "
                f"proportion, {'a processor with bf16 or AMX instructions or ' if best.precision == 'fp32' else ''}"
                "an NVIDIA GPU by more."
            )
        else:
            items.append(
                f"The network is only {share:.0%} of the time; most of the rest is “{slowest}”. A GPU would "
                "gain little here"
                + (
                    ", a faster disk or uncompressed .nii files more."
                    if slowest in ("read", "write")
                    else "."
                )
            )
        start = best.start_again_seconds or best.start_first_seconds
        if start > 0.2 * best.total.p50:
            items.append(
                f"Starting costs {start:.1f} s every time. Give many CTs to one command, "
                '<code>gcis-run "cts/*.nii.gz" -o results/</code>: it starts once, and reads the next CT '
                "while it computes."
            )
    ran = {row.name for row in record.rows}
    if not any("bf16" in name for name in ran):
        items.append("bf16 did not run: it needs a processor with AVX512-BF16 or AMX, and OpenVINO.")
    if not any(row.device != "cpu" for row in record.rows):
        items.append("No GPU was used. <code>gcis-bundle doctor</code> says what is missing for one.")
    items += [f"{escape(m.name)} did not run: {escape(m.reason)}" for m in record.missing]
    return "<h2>What to change</h2><ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _command(record: LatencyRecord, row: Row) -> str:
    """Return how to run an engine, or how to get a bundle that has it."""
    if row.bundle != record.subject.bundle:
        return f"{escape(row.name)}, which <code>gcis-export --precision {escape(row.precision)}</code> makes a bundle for"
    device = "" if row.device == "cpu" else " --device cuda"
    return f"<code>gcis-run CT.nii.gz --engine {escape(row.engine)} --precision {escape(row.precision)}{device}</code>"
