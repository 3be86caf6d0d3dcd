"""Generate a procedural head-and-neck CT with exact labels, for the demo, the tests and training.

The phantom is computed from formulas and contains no patient's image or contour. See `make_phantom`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.demo.phantom import head, neck, scanner, trunk
from gcis_runtime.demo.phantom.canvas import Canvas
from gcis_runtime.demo.phantom.subject import draw_subject

__all__ = ["STRUCTURES", "Phantom", "make_phantom"]

STRUCTURES: dict[int, str] = {
    1: "brainstem",
    2: "spinal cord",
    3: "right parotid gland",
    4: "left parotid gland",
    5: "esophagus",
    6: "larynx",
    7: "mandible",
}


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """One synthetic patient.

    Attributes:
        ct: int16 HU, (X, Y, Z), axes Right, Anterior, Superior.
        labels: uint8, (X, Y, Z), keys of `STRUCTURES`, 0 for background.
        affine: (4, 4) float64, voxel index to RAS+ mm.
        seed: Seed of the random generator.
    """

    ct: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    seed: int


def make_phantom(seed: int, *, spacing: tuple[float, float, float] = (3.0, 3.0, 3.0)) -> Phantom:
    """Generate the synthetic patient of a seed.

    The seed determines the person, the pose and the field of view. The spacing determines only the sampling,
    so that label volumes in mL agree between spacings.

    Args:
        seed: Seed of the random generator.
        spacing: Voxel size in mm, from 0.25 to 12 per axis.

    Raises:
        ValueError: A spacing is not a number between 0.25 and 12.
    """
    if len(spacing) != 3 or not all(np.isfinite(s) and 0.25 <= s <= 12 for s in spacing):
        raise ValueError(f"spacing: received {spacing}, expected three numbers of mm between 0.25 and 12")
    person, acquisition, grain = np.random.default_rng(seed).spawn(3)
    subject = draw_subject(person)
    scan = scanner.draw_scan(acquisition, subject.scale)
    canvas = Canvas(scanner.make_grid(scan, spacing), subject)
    skin = trunk.body_distance(canvas, subject)
    trunk.paint_background(canvas, subject, skin)
    trunk.paint_chest(canvas, subject, skin)
    neck.paint_muscles(canvas, subject)
    neck.paint_vessels(canvas, subject)
    head.paint_skull(canvas, subject)
    head.paint_face(canvas, subject)
    head.paint_masticators(canvas, subject)
    neck.paint_submandibular(canvas, subject)
    neck.paint_airway(canvas, subject)
    neck.paint_oesophagus(canvas, subject)
    head.paint_parotids(canvas, subject)
    head.paint_jaw(canvas, subject)
    head.paint_brain(canvas, subject)
    neck.paint_spine(canvas, subject)
    scanner.paint_devices(canvas, scan, skin)
    ct = scanner.acquire(canvas, scan, skin, head.metal_teeth(subject), grain)
    affine = np.diag([*spacing, 1.0]).astype(np.float64)
    affine[:3, 3] = np.asarray(canvas.grid.origin) + np.asarray(subject.shift)
    return Phantom(ct=ct, labels=canvas.labels, affine=affine, seed=seed)
