"""Read the golden masks of the published evaluation, and make the volumes that they belong to.

The masks are those of MONAI 0.9.1 for the test network (`bundles_and_images.conv_weights`), one prompt at a
time: its `Spacingd` to 1 mm, `ScaleIntensityRanged`, `sliding_window_inference` with Gaussian weights and
half overlap, softmax, argmax, and `scipy.ndimage.zoom(order=0, prefilter=False)` to the shape of the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gcis_runtime import Volume
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from tests.support.bundles_and_images import smooth_ct

FILE = Path(__file__).parents[1] / "data" / "monai_0_9_1_labels.npz"
CASES = {
    "anisotropic": ((60, 50, 30), (1.5, 1.5, 4.0)),
    "smaller than a window": ((40, 44, 20), (1.2, 1.2, 2.5)),
    "fewer voxels than the file": ((90, 84, 70), (0.8, 0.9, 1.0)),
}
"""Shape (X, Y, Z) and voxel size in mm."""
SPEC = PreprocessSpec()
WINDOW = WindowSpec(patch_size=(64, 64, 64))


def volume_of(case: str) -> Volume:
    """Return the image of a case."""
    shape, spacing = CASES[case]
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = (120, -80, 40)
    return Volume(array=smooth_ct(shape, seed=5), affine=affine)


def assert_equal(masks: np.ndarray, expected: np.ndarray) -> None:
    """Require equal masks but for voxels where rounding decides the sign of the logit: a few in a million."""
    assert masks.shape == expected.shape
    unequal = np.count_nonzero((masks > 0) != (expected > 0))
    assert unequal <= 5, f"{unequal} of {masks.size} voxels differ"


def masks_of(case: str) -> np.ndarray:
    """Return the masks (structure, X, Y, Z), uint8 0 and 1."""
    shape = CASES[case][0]
    with np.load(FILE) as packed:
        return np.unpackbits(packed[case], count=2 * int(np.prod(shape))).reshape(2, *shape)
