"""Test that the run key identifies everything that results depend on."""

from __future__ import annotations

from dataclasses import replace

from msgspec import UNSET

from gcis_runtime import Segmenter
from gcis_runtime.pipeline.options import SegmentOptions
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.resume import run_key
from tests.support.fake_session import threshold_segmenter


def test_the_limit_is_part_of_what_results_depend_on(make_bundle, ct):
    ours = threshold_segmenter().identity
    free, tight = RunOptions(), RunOptions(segment=SegmentOptions(max_memory=1 << 30))
    assert run_key(ours, ct, free) != run_key(ours, ct, tight) == run_key(ours, ct, replace(tight))


def test_raw_is_part_of_the_key_only_if_the_bundle_has_rules(make_bundle, ct):
    plain, raw = RunOptions(), RunOptions(segment=SegmentOptions(raw=True))
    with Segmenter.open(make_bundle("plain.gcis"), engine="onnx") as ours:
        assert run_key(ours.identity, ct, plain) == run_key(ours.identity, ct, raw)  # earlier keys stay valid
    with Segmenter.open(make_bundle(post=("largest", "")), engine="onnx") as ours:
        assert run_key(ours.identity, ct, plain) != run_key(ours.identity, ct, raw)
        assert run_key(ours.identity, ct, plain).raw is UNSET
