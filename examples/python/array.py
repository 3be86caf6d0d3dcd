"""Segment a numpy array, as in a notebook: `array.py BUNDLE`.

The array has axes X, Y, Z; the affine maps voxel indices to patient coordinates.
"""

import sys

import numpy as np

from gcis_runtime import Segmenter
from gcis_runtime.demo.phantom import make_phantom


def main(bundle: str) -> None:
    """Segment a head-and-neck phantom and print the volume of each structure."""
    phantom = make_phantom(7, spacing=(6.0, 6.0, 6.0))
    hu: np.ndarray = phantom.ct  # int16
    affine: np.ndarray = phantom.affine  # 4 x 4, from voxel index to RAS+ coordinates in mm
    with Segmenter.open(bundle) as segmenter:
        result = segmenter.segment(hu, affine=affine)
    for structure in result.structures:
        print(f"{structure.name}: {structure.volume_ml:.1f} mL, value {structure.value} in result.labels")
    for warning in result.warnings:
        print("warning:", warning)


if __name__ == "__main__":
    main(sys.argv[1])
