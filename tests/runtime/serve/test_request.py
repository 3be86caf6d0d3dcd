"""Test that a job computes what the options of `gcis-run` ask for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from gcis_runtime.dicom.options import DicomOptions
from gcis_runtime.pipeline.options import SegmentOptions
from gcis_runtime.runs.inputs import Source
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outputs import unchecked_job
from gcis_runtime.serve.client.submission import request_for


def test_every_option_reaches_the_service() -> None:
    segment = SegmentOptions(
        restore="nearest", masks=True, probabilities=True, roi="1:9,:,:", coarse=3.0, body_crop=True,
        max_memory=2 << 30, raw=True, straighten=True,
    )  # fmt: skip
    default = SegmentOptions()
    same = [f.name for f in fields(segment) if getattr(segment, f.name) == getattr(default, f.name)]
    assert not same, "an option without a value here"
    dicom = DicomOptions(allow_irregular=True, seg_type="labelmap", sr=True, uid_root="1.2")
    options = RunOptions(segment=segment, statistics=True, preview=True, report_html=True, dicom=dicom)
    job = unchecked_job(Source(image=Path("ct.nii.gz"), name="ct"), Path("out"), ["nii.gz"])
    request = request_for(job, options, bundle="b", prompts=("liver",))
    assert request.run_options() == options
    assert (request.prompt, request.format) == (("liver",), ("nii.gz",))
