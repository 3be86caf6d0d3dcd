"""Define orientations and spacings of image grids that every native-grid test covers."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

TURN = Rotation.from_euler("xyz", [10, -7, 23], degrees=True).as_matrix()
SHEAR = np.array([[1, 0, 0], [0, 1, 0.2], [0, 0, 1.0]])
LINEAR = {
    "finer": np.diag([2.1, 1.9, 4.0]),
    "coarser, ties": np.diag([1.0, 1.0, 1.0]),
    "flipped": np.diag([-0.8, -0.9, 2.5]),
    "permuted": np.array([[0, 0, 3.0], [-1.5, 0, 0], [0, 1.2, 0]]),
    "oblique": TURN @ np.diag([1.0, 1.0, 3.0]),
    "oblique, ties": TURN @ np.diag([1.0, 2.0, 4.0]),
    "tilt": SHEAR @ np.diag([0.9, 1.1, 3.0]),
    "same grid": np.diag([2.0, 2.0, 2.0]),
}
"""3 x 3 part of the affine by kind of grid; the network's grid is RAS with 2 mm voxels."""
