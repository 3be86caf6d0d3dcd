"""Test `gcis-serve --dicom-port`: series become jobs, results go back, and a killed process loses nothing."""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

pytest.importorskip("pynetdicom")
pytest.importorskip("highdicom")

from gcis_runtime.cli.serve import main
from gcis_runtime.dicom_node.inbox import ReceivedSeries
from gcis_runtime.dicom_node.node import DicomNode
from gcis_runtime.dicom_node.options import NodeOptions
from gcis_runtime.images.volume import Volume
from tests.runtime.dicom.orthanc import push, running_archive, store
from tests.runtime.dicom_node.sender import send
from tests.support.bundles_and_images import smooth_ct
from tests.support.dicom_series import ROOT, slices_of, write
from tests.support.service_process import PATIENCE, Server, serving

AFFINE = np.array([[-2.0, 0, 0, 40], [0, -2, 0, 40], [0, 0, 3, -10], [0, 0, 0, 1.0]])


@pytest.fixture
def study(tmp_path: Path) -> Path:
    ct = Volume.from_array(smooth_ct((36, 34, 20)), affine=AFFINE)
    return write(slices_of(ct), tmp_path / "sent")


def port_of(server: Server) -> int:
    """Return the port of the DICOM node, which the log states."""
    found = re.search(r"DICOM node GCIS on port (\d+)", server.log)
    assert found, server.log
    return int(found[1])


@pytest.mark.service
def test_a_killed_service_answers_what_it_received(
    make_bundle: Callable[..., Path], own_home: None, study: Path, tmp_path: Path
) -> None:
    back: queue.Queue[ReceivedSeries] = queue.Queue()
    options = NodeOptions(folder=tmp_path / "pacs", title="PACS", callers=("GCIS",), port=0, at_release=True)
    with DicomNode(options, back.put) as pacs:
        arguments: tuple[Any, ...] = (
            "--bundle", make_bundle(), "--dicom-port", 0, "--allow", "PACS", "--quiet", 2,
            "--send-to", f"PACS@127.0.0.1:{pacs.port}", "--send-format", "dicom-seg", "--send-format", "sr",
        )  # fmt: skip
        with serving(tmp_path / "jobs", *arguments) as server:
            assert set(send(port_of(server), study)["store"].values()) == {0}
            server.kill()  # before the quiet period is over
        assert back.empty()
        with serving(tmp_path / "jobs", *arguments) as server:
            found = [back.get(timeout=PATIENCE) for _ in range(2)]
            files = [pydicom.dcmread(next(series.folder.glob("*.dcm"))) for series in found]
            assert sorted(ds.Modality for ds in files) == ["SEG", "SR"]
            (seg,) = [ds for ds in files if ds.Modality == "SEG"]
            assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == f"{ROOT}2"
            assert "Muster" not in server.log and "4711" not in server.log
            assert server.terminate() == 0


@pytest.mark.dicom
@pytest.mark.service
def test_an_archive_sends_a_study_to_the_service_and_receives_its_segmentation(
    make_bundle: Callable[..., Path], own_home: None, study: Path, tmp_path: Path
) -> None:
    with running_archive(tmp_path / "archive") as archive:
        arguments: tuple[Any, ...] = (
            "--bundle", make_bundle(), "--dicom-port", 0, "--allow", "ORTHANC", "--at-release",
            "--send-to", f"ORTHANC@127.0.0.1:{archive.dicom}", "--send-to", f"{archive.url}/dicom-web",
        )  # fmt: skip
        with serving(tmp_path / "jobs", *arguments) as server:
            store(archive, study)
            push(archive, port_of(server))
            limit = time.monotonic() + PATIENCE
            while server.log.count("sent 1 file to ") < 2 and time.monotonic() < limit:
                time.sleep(0.1)
            assert server.log.count("sent 1 file to ") == 2, server.log
            assert {entry["00080060"]["Value"][0] for entry in archive.find()} == {"CT", "SEG"}


@pytest.mark.service
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--allow", "A"], "need --dicom-port"),
        (["--dicom-port", "0", "--allow", "A"], "--dicom-port needs --allow AET and --send-to"),
        (["--dicom-port", "0", "--allow", "A", "--send-to", "B"], "the destination is invalid"),
        (
            [
                "--dicom-port",
                "0",
                "--allow",
                "A",
                "--send-to",
                "B@c:1",
                "--host",
                "0.0.0.0",
                "--without-token",
            ],
            "needs the networks that may connect",
        ),
    ],
)
def test_settings_of_the_node_are_checked_before_it_listens(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    shown = CliRunner().invoke(main, ["--bundle", "demo", "--folder", str(tmp_path / "jobs"), *arguments])
    assert shown.exit_code == 2 and message in shown.stderr, shown.output
