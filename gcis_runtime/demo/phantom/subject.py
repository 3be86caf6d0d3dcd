"""Draw the random properties of a person, independent of the voxel grid."""

from dataclasses import dataclass

import numpy as np

_Rng = np.random.Generator

# Mean attenuation (HU) and its spread between persons and scanners.
_TISSUES: dict[str, tuple[float, float]] = {
    "fat": (-102, 6),
    "skin": (10, 12),
    "muscle": (52, 7),
    "brain": (37, 3),
    "fluid": (9, 3),
    "brainstem": (28, 6),
    "cord": (37, 9),
    "disc": (85, 15),
    "cortical": (1150, 130),
    "spongy": (260, 65),
    "jaw_cortex": (1180, 120),
    "jaw_marrow": (230, 110),
    "tooth": (1900, 200),
    "parotid": (-10, 22),
    "submandibular": (45, 12),
    "thyroid": (105, 18),
    "cartilage": (170, 90),
    "oesophagus": (38, 10),
    "mucosa": (45, 10),
    "lung": (-840, 35),
    "blood": (45, 6),
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Random properties of a phantom. Lengths in mm, angles in degrees, attenuation in HU."""

    scale: float
    neck_stretch: float
    male: bool
    fat: float
    girth: float
    shoulder_lift: float
    pitch: float
    yaw: float
    roll: float
    curve: tuple[float, float, float]
    shift: tuple[float, float, float]
    ripples: tuple[tuple[float, float, float, float], ...]
    hu: dict[str, float]
    contrast: bool
    parotid_size: tuple[float, float]
    larynx_size: float
    larynx_shift: float
    jaw_size: float
    brainstem_size: float
    cord_size: float
    oesophagus_size: float
    oesophagus_air: float
    oesophagus_end: float
    mouth_open: float
    pharynx_width: float
    metal: tuple[int, ...]
    waves: tuple[tuple[float, float, float, float], ...]


def _between(rng: _Rng, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _around(rng: _Rng, mean: float, spread: float, limit: float = 2.0) -> float:
    return mean + spread * float(np.clip(rng.standard_normal(), -limit, limit))


def _waves(
    rng: _Rng, count: int, shortest: float, longest: float
) -> tuple[tuple[float, float, float, float], ...]:
    """Draw plane waves (kx, ky, kz in rad/mm, phase) whose sum is the soft-tissue texture."""
    waves = []
    for _ in range(count):
        direction = rng.standard_normal(3)
        direction *= 2 * np.pi / _between(rng, shortest, longest) / np.linalg.norm(direction)
        kx, ky, kz = (float(v) for v in direction)
        waves.append((kx, ky, 0.5 * kz, _between(rng, 0, 2 * np.pi)))
    return tuple(waves)


def _tissues(rng: _Rng, contrast: bool) -> dict[str, float]:
    hu = {name: _around(rng, mean, spread) for name, (mean, spread) in _TISSUES.items()}
    hu["artery"] = _between(rng, 130, 260) if contrast else hu["blood"]
    hu["vein"] = _between(rng, 110, 210) if contrast else hu["blood"]
    if contrast:
        for name, gain in (
            ("thyroid", 50),
            ("mucosa", 25),
            ("muscle", 8),
            ("parotid", 18),
            ("submandibular", 25),
        ):
            hu[name] += gain
    return hu


def draw_subject(rng: _Rng) -> Subject:
    """Draw a person. Ranges follow the spread of 164 clinical head-and-neck planning CTs."""
    male = bool(rng.random() < 0.7)
    contrast = bool(rng.random() < 0.5)
    parotid = _around(rng, 1.0, 0.08)
    return Subject(
        scale=float(np.clip(_around(rng, 1.01 if male else 0.95, 0.045), 0.85, 1.15)),
        neck_stretch=_around(rng, 1.0, 0.07),
        male=male,
        fat=_between(rng, 3.5, 12) + (0 if male else 2),
        girth=_around(rng, 1.0, 0.07),
        shoulder_lift=_between(rng, -8, 30),
        pitch=_around(rng, 2, 5),
        yaw=_around(rng, 0, 3),
        roll=_around(rng, 0, 2.5),
        curve=(_around(rng, 0, 5), _around(rng, 0, 5), _around(rng, 0, 4)),
        shift=(_around(rng, 0, 8), _around(rng, 0, 8), _around(rng, 0, 15)),
        ripples=tuple(
            (_between(rng, 0.5, 1.8), _between(rng, 60, 130), _between(rng, 0, 6.28), _between(rng, 0, 6.28))
            for _ in range(3)
        ),
        hu=_tissues(rng, contrast),
        contrast=contrast,
        parotid_size=(parotid * _around(rng, 1.0, 0.03), parotid * _around(rng, 1.0, 0.03)),
        larynx_size=_around(rng, 1.02 if male else 0.91, 0.09),
        larynx_shift=_around(rng, 0, 4),
        jaw_size=_around(rng, 0.98, 0.05),
        brainstem_size=_around(rng, 1.0, 0.07),
        cord_size=_around(rng, 0.97, 0.1),
        oesophagus_size=_around(rng, 1.0, 0.08),
        oesophagus_air=_between(rng, 1.5, 3.2) if rng.random() < 0.4 else 0.0,
        oesophagus_end=_between(rng, -225, -195),
        mouth_open=_between(rng, 0, 14) if rng.random() < 0.4 else 0.0,
        pharynx_width=_between(rng, 0.6, 1.15),
        metal=tuple(int(i) for i in rng.integers(0, 12, rng.integers(1, 4))) if rng.random() < 0.4 else (),
        waves=_waves(rng, 12, 12, 45),
    )
