"""Test the marks of structures and the outliers of volumes."""

from __future__ import annotations

import numpy as np
import pytest

from gcis_runtime.images.volume import Volume
from gcis_runtime.pages.marks import find_marks, find_pieces
from gcis_runtime.pages.spread import spread_of
from gcis_runtime.pages.tissues import tissue_of
from gcis_runtime.pictures.view import PatientView, find_extents
from gcis_runtime.pipeline.report_parts import Statistics, StructureReport


def structure(
    value: int, name: str, ml: float, *, hu: float = 40.0, x: float = 0.0, edge: bool = False
) -> StructureReport:
    found = Statistics(
        voxels=int(ml * 100), volume_ml=ml, mean_hu=hu, sd_hu=10.0,
        box_min_mm=(x - 5, 0, 0), box_max_mm=(x + 5, 9, 9), touches_edge=edge,
    )  # fmt: skip
    return StructureReport(value=value, name=name, voxels=int(ml * 100), volume_ml=ml, statistics=found)


def shorts(*structures: StructureReport) -> list[tuple[int, str]]:
    return [(mark.value, mark.short) for mark in find_marks(structures, {})]


def test_ordinary_structures_have_no_marks() -> None:
    pair = structure(1, "left parotid gland", 30, x=-40), structure(2, "right parotid gland", 40, x=40)
    assert shorts(*pair, structure(3, "mandible", 80, hu=600), structure(4, "larynx", 25, hu=-170)) == []


@pytest.mark.parametrize(
    ("marked", "short"),
    [
        (structure(1, "brainstem", 0.0), "empty"),
        (structure(1, "brainstem", 0.05), "tiny"),
        (structure(1, "spinal cord", 20.0, edge=True), "at the border"),
        (structure(1, "brainstem", 20.0, hu=-300), "implausible HU"),
        (structure(1, "Leber", 900.0, hu=700), "implausible HU"),
        (structure(1, "Bone_Mandible", 70.0, hu=10), "implausible HU"),
        (structure(1, "left lung", 900.0, hu=0), "implausible HU"),
    ],
)
def test_a_structure_is_marked(marked: StructureReport, short: str) -> None:
    assert shorts(marked) == [(1, short)]


def test_pairs_of_unequal_volume_are_marked_unless_one_is_cut_off() -> None:
    left, right = structure(1, "left kidney", 100, x=-40), structure(2, "right kidney", 160, x=40)
    assert shorts(left, right) == [(1, "unequal pair"), (2, "unequal pair")]
    assert shorts(left, structure(2, "right kidney", 149, x=40)) == []
    assert shorts(left, structure(2, "right kidney", 160, x=40, edge=True)) == [(2, "at the border")]
    small = structure(1, "left cochlea", 0.2, x=-40), structure(2, "right cochlea", 0.6, x=40)
    assert shorts(*small) == []
    numbered = structure(1, "left rib 4", 10, hu=300, x=-9), structure(2, "right rib 5", 30, hu=300, x=9)
    assert shorts(*numbered) == []


def test_exchanged_sides_are_marked() -> None:
    pair = structure(1, "left parotid gland", 30, x=40), structure(2, "right parotid gland", 30, x=-40)
    assert shorts(*pair) == [(1, "sides exchanged"), (2, "sides exchanged")]


def test_organs_with_gas_and_unknown_structures_have_no_range() -> None:
    assert [tissue_of(name) for name in ("esophagus", "larynx", "colon", "thing")] == [None] * 4
    assert tissue_of("rechte Niere").name == "soft tissue" and tissue_of("vertebra L3").name == "bone"


def test_pieces_are_counted_and_strays_marked() -> None:
    labels = np.zeros((60, 40, 30), np.uint8)
    labels[2:12, 2:12, 2:12] = 1
    labels[50, 5, 5] = 1  # 38 voxels of 2 mm beyond the large piece
    labels[30:36, 30:36, 3:9] = 2
    labels[36, 36, 9] = 2  # connected by a corner
    view = PatientView.of(Volume.from_array(labels.astype(np.int16), affine=np.diag([2.0, 2, 2, 1])), labels)
    pieces = find_pieces(view, find_extents(labels, [1, 2]))
    assert (pieces[1].count, pieces[1].stray_mm, pieces[2].count) == (2, 78.0, 1)
    assert pieces[1].main == pytest.approx(1000 / 1001)
    marks = find_marks([structure(1, "brainstem", 20.0), structure(2, "eye", 8.0)], pieces)
    assert [(m.value, m.short) for m in marks] == [(1, "in pieces")]
    assert "99.9%" in marks[0].text and "78 mm" in marks[0].text


def test_outliers_are_far_from_the_median_on_a_logarithmic_scale() -> None:
    volumes = {str(i): 30.0 + i % 5 for i in range(12)}
    assert spread_of(volumes).outliers == ()
    found = spread_of(volumes | {"half": 8.0, "large": 140.0, "none": 0.0})
    assert found.outliers == ("half", "large") and found.empty == ("none",)
    assert (found.found, found.low, found.high) == (14, 8.0, 140.0)
    assert {dot.text for dot in found.dots if dot.outlier} == {"half: 8.0 mL", "large: 140.0 mL"}
    assert all(0 <= dot.x <= found.size[0] and 0 <= dot.y <= found.size[1] for dot in found.dots)
    assert spread_of({"a": 1.0, "b": 100.0}).outliers == (), "too few cases"
    assert spread_of({str(i): 5.0 for i in range(9)} | {"x": 6.0}).outliers == (), "no spread"
    assert spread_of({str(i): 2.0**i for i in range(10)}).outliers == (), "evenly spread logarithms"
    assert spread_of({"a": 0.0}).median is None
