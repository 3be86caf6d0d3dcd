"""Define fixtures of the tests of image files."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

from tests.support.image_headers import SHAPE, SPACING


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(-1000, 2000, SHAPE).astype(np.int16)


@pytest.fixture
def image(voxels):
    """Return a SimpleITK image with an oblique direction."""
    image = SimpleITK.GetImageFromArray(voxels.T)
    image.SetSpacing(SPACING)
    image.SetOrigin((11.5, -20.25, 3.0))
    image.SetDirection(np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0].ravel().tolist())
    return image
