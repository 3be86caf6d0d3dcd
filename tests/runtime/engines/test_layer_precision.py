"""Test the precision of an engine, determined from its convolutions."""

from __future__ import annotations

import pytest

from gcis_runtime.engines.layer_precision import computed_in


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"fp32": 40}, "fp32"),
        ({"fp32": 5, "bf16": 35}, "bf16"),
        ({"fp32": 20, "int8": 20}, "int8"),  # what INT8 graphs are: small convolutions stay in float
        ({"bf16": 30, "int8": 10}, "int8"),
        ({"bf16": 35, "int8": 5}, "bf16"),  # most of the 8-bit convolutions were dropped
        ({}, None),
    ],
)
def test_what_an_engine_computes_in(counts, expected):
    assert computed_in(counts) == expected
