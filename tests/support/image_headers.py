"""Write image files and change their headers."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import SimpleITK

SHAPE, SPACING = (9, 8, 7), (0.75, 0.875, 2.5)


def save(path, image, *, packed=True):
    SimpleITK.WriteImage(image, str(path), packed)
    return path


def edit(path, pattern, new):
    data = path.read_bytes()
    changed = re.sub(pattern, new, data, count=1, flags=re.MULTILINE)
    assert changed != data
    path.write_bytes(changed)
    return path


def single(path, voxels, affine, **fields):
    """Write an uncompressed NIfTI file whose header fields are set as given."""
    image = nib.Nifti1Image(voxels, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nib.save(image, path)
    data = path.read_bytes()
    header = nib.Nifti1Header(data[:348], check=False)
    for key, value in fields.items():
        header[key] = value
    path.write_bytes(header.binaryblock + data[348:])
    return path


AFFINE = np.diag([*SPACING, 1.0])
