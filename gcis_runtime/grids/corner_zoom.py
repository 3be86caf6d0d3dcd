"""Look up nearest voxels as the published evaluation does: indices are stretched from corner to corner.

The published code resamples label arrays with `scipy.ndimage.zoom(labels, ratios, order=0)`, which knows
array shapes but no affine. The first and the last voxel of each axis coincide, so structures are
displaced by up to half a voxel of the network, most at the far border.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def corner_index(size_in: int, size_out: int) -> NDArray[np.intp]:
    """Return the input index of each output index along one axis, as `scipy.ndimage.zoom(order=0)`.

    Index `o` maps to `floor(o * (size_in - 1) / (size_out - 1) + 0.5)`: halves are rounded up. If rounding
    noise moves the last coordinate beyond the input, SciPy fills the output with zero.

    Args:
        size_in: Voxels of the input axis, at least 1.
        size_out: Voxels of the output axis, at least 1.

    Returns:
        (size_out,) non-decreasing; `size_in` where the output is zero.
    """
    step = (size_in - 1) / (size_out - 1) if size_out > 1 else 1.0
    position = np.arange(size_out, dtype=np.float64) * step
    index = np.floor(position + 0.5).astype(np.intp)
    index[position > size_in - 1] = size_in
    return index
