"""Read CT files in a MONAI bundle written by gCIS, by the rules of `gcis-run`.

This file is copied into the bundle's `scripts/`; it requires MONAI and nibabel, but not gCIS.
"""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from monai.data import NibabelReader


class CtReader(NibabelReader):  # type: ignore[misc]
    """Reader for `LoadImage` of one CT volume in NIfTI.

    Unlike `NibabelReader`, it takes the voxel size from the affine even where the pixdim field of the header
    differs, removes axes of length 1 beyond the third, and raises errors for voxels that cannot be HU.
    """

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Open a NIfTI file.

        Args:
            data: A path, or a sequence of one path.
            kwargs: Ignored.

        Returns:
            nibabel's image; its voxels are not read yet.
        """
        (name,) = (data,) if isinstance(data, str) or not hasattr(data, "__len__") else data
        self.filenames = (name,)
        return nib.load(name)

    def get_data(self, img: Any) -> tuple[Any, dict[str, Any]]:
        """Read the voxels.

        Args:
            img: An image from `read`.

        Returns:
            The voxels (X, Y, Z) float32, and MONAI's metadata with the RAS+ affine.

        Raises:
            ValueError: The file is not one volume of finite real numbers. Errors are raised here, since
                `LoadImage` tries further readers after an error in `read`.
        """
        (name,) = self.filenames
        shape = img.shape
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != 3:
            raise ValueError(
                f"{name}: the image is not three-dimensional; received shape {img.shape}; expected one "
                "volume with three axes. Split it and pass one volume at a time."
            )
        dtype = img.get_data_dtype()
        if dtype.names is not None or dtype.kind not in "iuf":
            raise ValueError(
                f"{name}: the voxels are not real numbers; received {dtype}; expected integers or floats"
            )
        voxels = np.asanyarray(img.dataobj).reshape(shape, order="F").astype(np.float32)
        bad = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
        if bad:
            raise ValueError(
                f"{name}: the image has voxels that are not finite; received {bad} of {voxels.size} voxels "
                "NaN or infinite; expected HU values. Replace them, for example with -1024 (air)."
            )
        plain: tuple[Any, dict[str, Any]] = super().get_data(nib.Nifti1Image(voxels, img.affine))
        return plain
