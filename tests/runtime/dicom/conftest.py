"""Skip the tests of DICOM where its extra is not installed; define a small CT."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from gcis_runtime.images.volume import Volume

collect_ignore_glob = [] if importlib.util.find_spec("highdicom") else ["test_*.py"]


@pytest.fixture(scope="session")
def volume() -> Volume:
    """Return a CT with an anisotropic, shifted and flipped grid; HU from -1000 to 1499."""
    rng = np.random.default_rng(3)
    affine = np.array([[-2.0, 0, 0, 50], [0, -1.5, 0, 30], [0, 0, 3, -10], [0, 0, 0, 1]])
    return Volume(array=rng.integers(-1000, 1500, (40, 34, 9)).astype(np.int16), affine=affine)
