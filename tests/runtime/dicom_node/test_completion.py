"""Test when a series is complete: after a quiet period, or when the associations that sent it have ended."""

from __future__ import annotations

from gcis_runtime.dicom_node.completion import Completion


def test_a_series_is_complete_after_a_quiet_period() -> None:
    found = Completion(quiet_seconds=10, at_release=False)
    found.arrived("a", 0, sender=1)
    found.arrived("b", 4, sender=1)
    found.arrived("a", 9, sender=1)
    found.ended(1)
    assert found.take_complete(13.9) == []
    assert found.take_complete(14) == ["b"] and len(found) == 1
    assert found.take_complete(18.9) == [] and found.take_complete(19) == ["a"] and not len(found)


def test_with_at_release_the_end_of_its_last_association_is_enough() -> None:
    found = Completion(quiet_seconds=10, at_release=True)
    found.arrived("a", 0, sender=1)
    found.arrived("a", 1, sender=2)
    found.arrived("b", 1, sender=2)
    found.ended(1)
    assert found.take_complete(2) == []
    found.ended(2)
    assert found.take_complete(2) == ["a", "b"]
    found.arrived("a", 3, sender=3)  # more of a series makes it incomplete again
    found.ended(9)
    assert found.take_complete(4) == [] and found.take_complete(13) == ["a"]
