"""The routing benchmark: its ratios, its refusals, and what the committed records and their page say."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import routing
from benchmarks.cli import RESULTS, main
from benchmarks.routing_step import Step, measure

PAGE = RESULTS.parents[1] / "docs" / "decisions" / "0013-cost-of-routing.md"


def _measured(step: Step) -> dict[str, Any]:
    """A measurement that follows from the step: ours takes half, several prompts twice one's time."""
    factor = (0.5 if step.way == "ours" else 1.0) * (2 if step.prompts > 1 else 1)
    result: dict[str, Any] = {"activation_mb": 100.0 * factor, "first_loss": 1.0}
    if step.repeats == 0:
        return {**result, "encoder_mb": 40.0}
    return {**result, "seconds": [factor] * step.repeats, "cpu_seconds": [factor], "peak_mb": 1.0}


def _compare(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"feature_size": 12, "roi": 64, "rounds": 2, "repeats": 3, "warmup": 0}
    fields |= {"threads": 1, "sharing": True, "keep_memory": True, "progress": lambda line: None}
    return routing.compare(**{**fields, **changes})


def test_ratios_are_ours_over_published_and_gains_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_measured", _measured)
    record = _compare()
    assert record["what"] == "routing-12-64" and len(record["rows"][0]["seconds_all"]) == 6
    timed, *_, recomputed, alone, together = record["ratios"].values()
    assert timed == {
        "seconds": 0.5,
        "cpu_seconds": 0.5,
        "activation_mb": 0.5,
        "peak_mb": 1.0,
        "loss_difference": 0.0,
    }
    assert recomputed["decoder_activation_mb"] == round(10 / 60, 3)
    assert alone["seconds"] == 3.5 and together["seconds"] == 2.0


def test_a_way_that_was_killed_leaves_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        routing, "_measured", lambda s: {"unavailable": "-9"} if s.way == "published" else _measured(s)
    )
    record = _compare(sharing=False, keep_memory=False)
    assert record["rows"][0]["unavailable"] == "-9"
    assert all(not values for values in record["ratios"].values())


def test_a_forward_pass_keeps_more_than_its_encoder() -> None:
    found = measure(Step(way="ours", feature_size=12, roi=64, pathways=2, warmup=0, repeats=0))
    assert found["activation_mb"] > found["encoder_mb"] > 10
    assert CliRunner().invoke(main, ["routing", "--case", "12"]).exit_code == 2


@pytest.mark.parametrize("case", ["12/64", "48/96"])
def test_the_page_says_what_the_record_says(case: str) -> None:
    name = f"routing-{case.replace('/', '-')}_"
    record = json.loads(max(RESULTS.glob(f"{name}*.json")).read_text())
    timed, *_ = record["ratios"].values()
    assert all(values.get("loss_difference", 0) == 0 for values in record["ratios"].values())
    decoder = [v["decoder_activation_mb"] for v in record["ratios"].values() if "decoder_activation_mb" in v]
    assert max(decoder) < 1 / 3
    header, *rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("|")]
    column = next(i for i, cell in enumerate(header) if cell.strip() == case)
    said = {row[0].strip(): float(re.match(r"\s*([0-9.]+)", row[column])[1]) for row in rows[1:]}  # type: ignore[index]
    assert said["processor seconds a step"] == round(timed["cpu_seconds"], 2)
    assert said["kept for the backward pass, decoder"] == round(decoder[0], 2)
    assert said["kept for the backward pass, whole network"] == round(timed["activation_mb"], 2)
