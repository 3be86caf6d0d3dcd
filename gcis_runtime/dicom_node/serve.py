"""Segment every CT series that a DICOM node receives, and send the results to other nodes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from gcis_runtime.dicom_node.destinations import Destination, parse_destination
from gcis_runtime.dicom_node.inbox import ReceivedSeries
from gcis_runtime.dicom_node.node import DicomNode
from gcis_runtime.dicom_node.options import NodeOptions
from gcis_runtime.dicom_node.outbox import Outbox
from gcis_runtime.dicom_node.send import send_files
from gcis_runtime.errors import OutputError
from gcis_runtime.pipeline.segmenter import Segmenter
from gcis_runtime.runs.cohort import run_cases
from gcis_runtime.runs.inputs import find_images
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outcome import Outcome
from gcis_runtime.runs.outputs import DICOM_FORMATS, plan_jobs

OUTBOX = "outbox"


def serve_node(
    segmenter: Segmenter,
    node: NodeOptions,
    *,
    send_to: Sequence[str],
    formats: Sequence[str] = ("dicom-seg",),
    options: RunOptions | None = None,
    token: str | None = None,
    stop: threading.Event | None = None,
    on_start: Callable[[DicomNode], None] = lambda node: None,
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Receive series, segment them and send the results, until `stop` is set.

    Args:
        segmenter: The open segmenter.
        node: What is accepted, and where it is stored.
        send_to: Destinations of all results: `AET@HOST:PORT`, or URLs of DICOMweb servers.
        formats: Formats of the results, `dicom-seg` and `rtstruct`.
        options: What to compute; with `options.dicom.sr` the measurements are sent too.
        token: Bearer token for DICOMweb servers.
        stop: Ends the node; the series that is being segmented is finished first.
        on_start: Called once the node listens.
        log: Receives lines with UIDs and AE titles, without anything of the patient.

    Raises:
        OutputError: An option is invalid, the address cannot be used, or a package is missing.
    """
    destinations = [parse_destination(text) for text in send_to]
    if not destinations or not formats or set(formats) - set(DICOM_FORMATS):
        raise OutputError(
            "a DICOM node sends results in DICOM formats to destinations",
            received=f"formats {', '.join(formats) or 'none'} and {len(destinations)} destinations",
            expected=f"at least one of {', '.join(DICOM_FORMATS)}, and one destination",
        )
    send = partial(send_files, title=node.title, token=token)
    outbox = Outbox(node.folder / OUTBOX, send=send, destinations=destinations, log=log)
    process = partial(
        process_series, segmenter, outbox=outbox, destinations=destinations, formats=formats,
        options=options or RunOptions(), log=log,
    )  # fmt: skip
    with DicomNode(node, process, log=log) as listening:
        outbox.start()
        try:
            on_start(listening)
            (stop or threading.Event()).wait()
        finally:
            outbox.stop()


def process_series(
    segmenter: Segmenter,
    series: ReceivedSeries,
    *,
    outbox: Outbox,
    destinations: Sequence[Destination],
    formats: Sequence[str],
    options: RunOptions,
    log: Callable[[str], None],
) -> None:
    """Segment a received series, and add its results to the outbox.

    Raises:
        GcisError: The series has no CT image, or cannot be segmented.
    """
    dicom = replace(options.dicom, every=True, series=())  # several in one folder only if UIDs are reused
    options = replace(options, dicom=dicom)
    sources = find_images([series.folder], dicom)
    jobs = plan_jobs(sources, f"{series.results}/", formats=formats)
    outcomes: list[Outcome] = []
    run_cases(segmenter, jobs, options, on_done=outcomes.append)
    for number, outcome in enumerate(outcomes):
        if outcome.report is None:
            raise outcome.error or RuntimeError("no result")
        found = outcome.report.dicom
        files = [Path(file) for file in found.files.values()] if found else []
        for warning in outcome.report.warnings:
            log(f"series {series.series_uid}: {warning}")
        for destination in destinations if files else ():
            outbox.add(files, destination, key=f"{series.key} {number}")
