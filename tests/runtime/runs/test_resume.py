"""Test that the run key identifies everything that results depend on."""

from __future__ import annotations

from dataclasses import replace

from gcis_runtime.pipeline.options import SegmentOptions
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.resume import run_key
from tests.support.fake_session import threshold_segmenter


def test_the_limit_is_part_of_what_results_depend_on(make_bundle, ct):
    ours = threshold_segmenter()
    free, tight = RunOptions(), RunOptions(segment=SegmentOptions(max_memory=1 << 30))
    assert run_key(ours, ct, free) != run_key(ours, ct, tight) == run_key(ours, ct, replace(tight))
