"""Test the way through an archive: store, find, retrieve, segment, store the results, retrieve them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

from gcis_runtime.cli.run import main
from gcis_runtime.dicom.study import read_dicom
from gcis_runtime.images.volume import Volume
from tests.runtime.dicom.orthanc import Archive, running_archive, store
from tests.support.bundles_and_images import smooth_ct, write_bundle
from tests.support.dicom_series import ROOT, slices_of, write

pytestmark = pytest.mark.dicom


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with running_archive(tmp_path_factory.mktemp("orthanc")) as found:
        yield found


def test_a_study_goes_through_an_archive_and_its_results_come_back(archive: Archive, tmp_path: Path) -> None:
    affine = np.array([[-2.0, 0, 0, 40], [0, -2, 0, 40], [0, 0, 3, -10], [0, 0, 0, 1.0]])
    ct = Volume.from_array(smooth_ct((36, 34, 20)), affine=affine)
    store(archive, write(slices_of(ct), tmp_path / "sent"))
    assert [s["0020000E"]["Value"][0] for s in archive.find(Modality="CT")] == [f"{ROOT}2"]
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as study:
        for number, data in enumerate(archive.retrieve(f"{ROOT}2")):
            study.writestr(f"{number}.dcm", data)
    assert np.array_equal(read_dicom(tmp_path / "study.zip").array, ct.array)
    bundle = write_bundle(tmp_path / "b.gcis")
    arguments = [str(tmp_path / "study.zip"), "--bundle", str(bundle), "--sr"]
    arguments += ["--format", "dicom-seg", "--format", "rtstruct"]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    made = sorted(tmp_path.glob("study_*.dcm"))
    assert len(made) == 3
    archive.stow(made)
    for file in made:
        sent = pydicom.dcmread(file)
        (entry,) = archive.find(SeriesInstanceUID=sent.SeriesInstanceUID)
        assert entry["00080060"]["Value"] == [sent.Modality]
        (data,) = archive.retrieve(sent.SeriesInstanceUID, instance_uid=sent.SOPInstanceUID)
        back = pydicom.dcmread(io.BytesIO(data))
        assert back.to_json_dict() == sent.to_json_dict()
    CliRunner().invoke(main, arguments)
    archive.stow(sorted(tmp_path.glob("study_*.dcm")))  # a repeated run replaces, and does not multiply
    assert len(archive.find()) == 4
