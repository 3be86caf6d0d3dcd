"""Test views along the patient's axes, extents of structures, and the pixels of drawn planes."""

from __future__ import annotations

import numpy as np
import pytest

from gcis_runtime.images.volume import Volume
from gcis_runtime.pictures.figures import Canvas, draw_structure, strip_slices
from gcis_runtime.pictures.planes import Style, color_lookup, grey_values, outline, paint
from gcis_runtime.pictures.view import PatientView, body_box, find_extents

LPS = np.diag([-2.0, -2.0, 3.0, 1.0]) + np.array([[0] * 3 + [10], [0] * 3 + [20], [0] * 3 + [-5], [0] * 4])


def view_of(labels: np.ndarray, affine: np.ndarray) -> PatientView:
    image = np.where(labels > 0, 40, 0).astype(np.int16)
    return PatientView.of(Volume.from_array(image, affine=affine), labels)


def test_a_view_has_the_patients_axes_and_positions() -> None:
    labels = np.zeros((10, 8, 6), np.uint8)
    labels[2, 3, 4] = 7
    view = view_of(labels, LPS)
    (found,) = np.argwhere(view.labels == 7)
    assert found.tolist() == [7, 4, 4]  # both in-plane axes are reversed
    place = LPS @ [2, 3, 4, 1]
    for axis, index in enumerate(found):
        assert view.position_mm(axis, int(index)) == pytest.approx(place[axis])
    assert view.spacing.tolist() == [2, 2, 3]


def test_extents_equal_those_of_a_search() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((9, 11, 7)) > 0.8).astype(np.uint8) * rng.integers(1, 4, (9, 11, 7)).astype(np.uint8)
    extents = find_extents(labels, [1, 3, 9])
    assert set(extents) == {1, 3}
    for value, extent in extents.items():
        where = np.argwhere(labels == value)
        assert extent.low == tuple(where.min(0)) and extent.high == tuple(where.max(0))
        assert extent.centre == tuple(np.round(where.mean(0)).astype(int))
        for axis in range(3):
            counts = np.bincount(where[:, axis], minlength=labels.shape[axis])
            assert counts[extent.largest[axis]] == counts.max()


def test_an_outline_is_inside_and_not_at_the_border_of_the_picture() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[3:8, 0:5] = 1
    edge = outline(labels, 1)
    expected = np.zeros((10, 10), bool)
    expected[3, 0:5] = expected[7, 0:5] = expected[3:8, 4] = True
    np.testing.assert_array_equal(edge, expected)


def test_only_the_focus_is_filled() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[2:9, 2:9], labels[11:18, 11:18] = 1, 2
    lookup = color_lookup({1: (255, 0, 0), 2: (0, 255, 0)}, largest=2)
    out = paint(np.full((20, 20, 3), 100, np.float32), labels, lookup, Style(fill=0.5, line=1, focus=1))
    assert out[5, 5].tolist() == [177, 50, 50] and out[14, 14].tolist() == [100, 100, 100]
    assert out[2, 2].tolist() == [255, 0, 0] and out[11, 11].tolist() == [0, 255, 0]


def test_grey_values_of_a_window() -> None:
    assert grey_values(np.array([[-500, -160, 40, 240, 3000]]), (-160, 240)).tolist() == [
        [0, 0, 127, 255, 255]
    ]


def test_a_structure_is_drawn_at_the_place_and_size_that_the_scale_gives() -> None:
    """A cube of 60 mm in a field of view of 110 mm: also near the border of the volume."""
    labels = np.zeros((100, 100, 50), np.uint8)
    labels[5:35, 60:90, 20:40] = 1  # 60 mm along each axis; 10 mm from the border
    view = view_of(labels, np.diag([2.0, 2.0, 3.0, 1.0]))
    canvas = Canvas(
        view=view,
        lookup=color_lookup({1: (255, 0, 0)}, largest=1),
        box=body_box(view.image, [view.labels]),
    )
    picture = np.asarray(draw_structure(canvas, 1, find_extents(labels, [1])[1], panel=220)).astype(int)
    assert picture.shape == (220, 3 * 220 + 12, 3)
    for panel in range(3):
        part = picture[:, panel * 226 : panel * 226 + 220]
        rows, columns = (part[..., 0] - part[..., 1] > 60).nonzero()
        for found in (rows, columns):
            assert abs(found.min() - 50) <= 2 and abs(found.max() - 169) <= 2  # 220 px show 110 mm


def test_slices_of_the_strip_reach_from_the_highest_to_the_lowest_structure() -> None:
    labels = np.zeros((20, 20, 60), np.uint8)
    labels[5, 5, 10], labels[5, 5, 50] = 1, 2
    view = view_of(labels, np.eye(4))
    canvas = Canvas(view=view, lookup=color_lookup({}, largest=2), box=(slice(None),) * 3)
    slices = strip_slices(canvas, list(find_extents(labels, [1, 2]).values()), count=5)
    assert slices == [50, 40, 30, 20, 10]
    assert strip_slices(canvas, [], count=3) == [59, 30, 0]
