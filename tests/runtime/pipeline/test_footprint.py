"""Test that the predicted memory of a run grows with every requested output."""

from __future__ import annotations

from gcis_runtime.pipeline.footprint import RequestedOutputs, host_footprint
from tests.support.forecasting import engine_and_sizes


def test_more_of_anything_needs_more():
    _, sizes, way = engine_and_sizes(spacing=(1.5, 1.5, 1.5))

    def total(wanted, shape=sizes.shape):
        return host_footprint(way.plan, sizes.transform, shape, wanted, graph_channels=2).total

    least = total(RequestedOutputs(values=(1,), smooth=False))
    for more in (
        RequestedOutputs(values=(1, 2), smooth=False), RequestedOutputs(values=(300,), smooth=False),
        RequestedOutputs(values=(1,), smooth=True), RequestedOutputs(values=(1,), smooth=False, masks=True),
        RequestedOutputs(values=(1,), smooth=False, probabilities=True),
    ):  # fmt: skip
        assert total(more) > least
