"""Write a generated head-and-neck phantom and its true label map."""

from __future__ import annotations

from pathlib import Path

from gcis_runtime.images.nifti import write_labels, write_volume
from gcis_runtime.images.volume import Volume

IMAGE_FILE, TRUTH_FILE = "phantom_ct.nii.gz", "phantom_truth.nii.gz"


def write_phantom(seed: int, folder: Path) -> tuple[Path, Path]:
    """Write a generated head-and-neck phantom and its true label map.

    Args:
        seed: Seed of the generator.
        folder: Folder for `phantom_ct.nii.gz` and `phantom_truth.nii.gz`.

    Returns:
        Paths of both files.

    Raises:
        OutputError: A file cannot be written.
    """
    from gcis_runtime.demo.phantom import make_phantom  # noqa: PLC0415 (most runs need no generator)

    phantom = make_phantom(seed)
    volume = Volume.from_array(phantom.ct, affine=phantom.affine)
    image, truth = folder / IMAGE_FILE, folder / TRUTH_FILE
    write_volume(image, volume)
    write_labels(truth, phantom.labels, like=volume)
    return image, truth
