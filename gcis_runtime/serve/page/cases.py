"""Load the image and the label map of finished jobs for the page, and keep the last few in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from gcis_runtime.images.labels import read_labels
from gcis_runtime.images.nifti import write_volume
from gcis_runtime.images.volume import Volume
from gcis_runtime.pictures.view import Extent, PatientView, find_extents
from gcis_runtime.runs.outputs import unchecked_job
from gcis_runtime.runs.reading import read_input
from gcis_runtime.serve.problems import ServeError
from gcis_runtime.serve.service import JobService
from gcis_runtime.serve.work import find_source

_KEPT = 2
"""Number of cases in memory: the one that is looked at, and the previous one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedCase:
    """The image and the label map of a job.

    Attributes:
        volume: The image.
        view: Image and labels along the patient's axes.
        extents: Where each structure is, by label value.
        report: The report as clients see it.
    """

    volume: Volume
    view: PatientView
    extents: dict[int, Extent]
    report: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """Return grid and structures for the page; indices count along the axes right, anterior, superior."""
        return {
            "shape": list(self.view.image.shape),
            "spacing": [float(s) for s in self.view.spacing],
            "affine": self.view.affine[:3].tolist(),
            "structures": [self._structure(s) for s in self.report["structures"]],
        }

    def _structure(self, s: dict[str, Any]) -> dict[str, Any]:
        extent = self.extents.get(s["value"])
        found = {name: s[name] for name in ("value", "name", "color", "volume_ml")}
        return {**found, "place": None if extent is None else self._place(s["value"], extent)}

    def _place(self, value: int, extent: Extent) -> list[int]:
        """Return the voxel of a structure nearest to the middle of its largest axial cross-section."""
        z = extent.largest[2]
        voxels = np.argwhere(self.view.labels[:, :, z] == value)
        distance = (((voxels - voxels.mean(axis=0)) * self.view.spacing[:2]) ** 2).sum(axis=1)
        x, y = voxels[distance.argmin()]
        return [int(x), int(y), z]


class LoadedCases:
    """Loads cases on demand; may be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cases: OrderedDict[str, LoadedCase] = OrderedDict()

    def get(self, service: JobService, job: str) -> LoadedCase:
        """Return a case of a service.

        Raises:
            ServeError: There is no such job, it is not done, or it has no label map as an image file.
            ImageError: The image cannot be read any more.
        """
        state = service.record(job).state
        if state != "done":
            raise ServeError("the job has no results to look at", status=409, received=f"state {state}")
        with self._lock:  # one case is loaded at a time, so that memory is limited
            found = self._cases.get(job)
            if found is None:
                while len(self._cases) >= _KEPT:
                    self._cases.popitem(last=False)
                found = self._cases[job] = _load(service, job)
            self._cases.move_to_end(job)
            return found


def _load(service: JobService, job: str) -> LoadedCase:
    """Read image and label map of a finished job."""
    labels = next((p for n, p in service.files(job).items() if n.startswith("label.")), None)
    if labels is None:
        raise ServeError(
            "the job has no label map to look at", status=404, received="a DICOM result alone",
            expected="format=nii.gz among the formats", fix="Submit the image again with this format.",
        )  # fmt: skip
    options = service.record(job).request.run_options()
    source = find_source(service.source(job), options)
    volume, _ = read_input(unchecked_job(source, labels.parent, ("nii.gz",)), options)
    array = read_labels(labels, like=volume).array
    view = PatientView.of(volume, np.asarray(array))
    report = service.view(job).report or {}
    return LoadedCase(
        volume=volume,
        view=view,
        extents=find_extents(view.labels, [s["value"] for s in report["structures"]]),
        report=report,
    )


def nifti_bytes(service: JobService, case: LoadedCase) -> bytes:
    """Return the image of a case as a `.nii.gz` file; viewers in browsers do not read DICOM series.

    The file is written into the folder of the service, whose next start removes what a killed process left.
    """
    with service.incoming() as upload:
        path = upload.folder / "image.nii.gz"
        write_volume(path, case.volume)
        return path.read_bytes()
