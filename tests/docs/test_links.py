"""Test that links between documents and references to decisions point to existing files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs" / "decisions"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]


def links(text: str) -> list[str]:
    """Return the relative link targets of a page, without their anchors."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target.partition("#")[0] for target in targets if "://" not in target and target[0] != "#"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_points_to_a_file(page: Path) -> None:
    missing = [target for target in links(page.read_text()) if not (page.parent / target).exists()]
    assert not missing


def test_a_link_to_a_missing_file_is_found() -> None:
    assert links("[a](no/such.md#part), [b](https://example.org), [c](#here)") == ["no/such.md"]


def test_the_index_lists_every_decision_and_no_other() -> None:
    index = (DECISIONS / "README.md").read_text()
    listed = re.findall(r"^\| \[\d{4}\]\((\d{4}-[a-z0-9-]+\.md)\)", index, re.M)
    assert listed == sorted(path.name for path in DECISIONS.glob("0*.md"))
    assert len(listed) <= 25


def test_decisions_named_in_code_exist() -> None:
    files = [f for package in ("gcis_*", "benchmarks") for f in ROOT.glob(f"{package}/**/*.py")]
    named = {(f.name, n) for f in files for n in re.findall(r"docs/decisions/(\d{4})", f.read_text())}
    assert named, "expected at least one reference to a decision"
    assert not [(name, n) for name, n in named if not list(DECISIONS.glob(f"{n}-*.md"))]
