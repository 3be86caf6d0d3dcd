"""Write phantoms as image and label files with a datalist, to try the commands."""

from __future__ import annotations

from pathlib import Path

from gcis_runtime.demo.phantom import STRUCTURES, make_phantom
from gcis_runtime.errors import OutputError
from gcis_runtime.images.nifti import write_labels, write_volume
from gcis_runtime.images.volume import Volume
from gcis_runtime.spec import Triple
from gcis_runtime.system.json_files import write_json
from gcis_train.data.datalist import Datalist, Row


def write_phantoms(
    folder: Path, *, count: int, seed: int, spacing: Triple, training_share: float = 0.0
) -> Datalist:
    """Write phantoms `seed`, `seed + 1`, … as NIfTI files with a `datalist.json`.

    Args:
        folder: Output folder; created if missing.
        count: Number of phantoms.
        seed: Seed of the first phantom.
        spacing: Voxel size in mm.
        training_share: Share of the cases in the list `training`; the others are in `validation`.

    Raises:
        OutputError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written", received=error.strerror) from error
    cases: list[list[Row]] = []
    for number in range(seed, seed + count):
        phantom = make_phantom(number, spacing=spacing)
        names = (f"phantom_{number}_ct.nii.gz", f"phantom_{number}_label.nii.gz")
        volume = Volume.from_array(phantom.ct, affine=phantom.affine)
        write_volume(folder / names[0], volume)
        write_labels(folder / names[1], phantom.labels, like=volume)
        present = [value for value in STRUCTURES if (phantom.labels == value).any()]
        cases.append(
            [Row(image=names[0], label=names[1], prompt=STRUCTURES[v], label_value=v) for v in present]
        )
    split = round(count * training_share)
    datalist = Datalist(
        training=tuple(row for case in cases[:split] for row in case),
        validation=tuple(row for case in cases[split:] for row in case),
    )
    write_json(folder / "datalist.json", datalist, indent=1)
    return datalist
