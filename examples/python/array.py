"""Segment a numpy array, as in a notebook: `array.py BUNDLE`.

Axes are X, Y, Z; the affine says where they point in the patient.
"""

import sys

import numpy as np

from gcis_runtime import Segmenter
from gcis_runtime.demo.phantom import make_phantom


def main(bundle: str) -> None:
    """Make a head-and-neck phantom and print each structure's volume."""
    phantom = make_phantom(7, spacing=(6.0, 6.0, 6.0))
    hu: np.ndarray = phantom.ct  # int16
    affine: np.ndarray = phantom.affine  # 4 x 4, from voxel index to mm: right, anterior, superior
    with Segmenter.open(bundle) as segmenter:
        result = segmenter.segment(hu, affine=affine)
    for structure in result.structures:
        print(f"{structure.name}: {structure.volume_ml:.1f} mL, value {structure.value} in result.labels")
    for warning in result.warnings:
        print("warning:", warning)


if __name__ == "__main__":
    main(sys.argv[1])
