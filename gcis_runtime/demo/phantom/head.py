"""Paint the skull, the brain, the face and the mouth."""

import numpy as np

from gcis_runtime.demo.phantom.canvas import Canvas
from gcis_runtime.demo.phantom.shapes import Field, Solid, Table, band, ellipsoid, loft, tube, union
from gcis_runtime.demo.phantom.subject import Subject
from gcis_runtime.demo.phantom.trunk import CRANIUM

BRAINSTEM, RIGHT_PAROTID, LEFT_PAROTID, MANDIBLE = 1, 3, 4, 7

# Floor of the cranial cavity (mm) along y: posterior fossa, clivus, middle and anterior fossa.
_FLOOR = Table(
    (-95, -70, -40, -10, 5, 14, 28, 45, 60, 95), (-8, -30, -37, -33, -28, -12, 4, 8, 26, 32), smooth=8
)


def _cavity_distance(x: Field, y: Field, z: Field) -> Field:
    vault = CRANIUM.distance(x, y, z)
    # The petrous ridges extend backwards and outwards, the edge of the anterior fossa forwards and outwards.
    oblique = np.clip(np.abs(x) - 10, 0, 45) * np.clip((32 - y) / 40, -0.3, 0.6)
    return np.asarray(np.maximum(vault, 0.8 * (_FLOOR(y + oblique) - z)), np.float32)


_CAVITY = Solid(low=CRANIUM.low, high=CRANIUM.high, distance=_cavity_distance)


def brainstem(s: Subject) -> Solid:
    """Return the brain stem: midbrain, pons and medulla."""
    k = s.brainstem_size
    rows = [
        (-28, -6, 7, 6.5),
        (-14, -3, 9.5, 9),
        (-6, 0, 14, 12),
        (4, 1.5, 17, 14),
        (14, 1.5, 16.5, 13),
        (27, 0.5, 15.5, 12.5),
    ]
    return loft([(z, y, rx * k, ry * k) for z, y, rx, ry in rows], smooth=8)


def paint_skull(canvas: Canvas, s: Subject) -> None:
    """Paint the vault with diploe, skull base, petrous bones and mastoids, then the brain inside."""
    hu = s.hu
    canvas.paint(_CAVITY.grown(7), hu["cortical"])
    canvas.paint(_CAVITY.grown(5), 0.45 * hu["cortical"])
    canvas.paint(_CAVITY.grown(2), hu["cortical"])
    mastoid = tube([(52, -14, -4), (54, -10, -26)], [13, 8])
    canvas.pair(mastoid, 750)
    canvas.pair(mastoid.grown(-3), -350)
    canvas.pair(tube([(56, 2, -3), (84, -2, -5)], [3.5, 4]), -900)
    canvas.paint(_CAVITY, hu["brain"])
    petrous = tube([(14, 16, -8), (34, 4, -2), (54, -8, 0)], [6, 9, 10])
    canvas.pair(petrous, 950)
    canvas.pair(ellipsoid((42, 4, -3), (6, 4, 4)), -300)
    canvas.paint(tube([(0, 20, -4), (0, 9, -28)], [8, 5]).grown(-1), 480)


def paint_brain(canvas: Canvas, s: Subject) -> None:
    """Paint grey and white matter, ventricles, cisterns and the brain stem."""
    hu = s.hu
    canvas.paint(_CAVITY.grown(-2).shell(4), 0.6 * hu["fluid"] + 0.4 * hu["brain"], strength=0.6)
    canvas.pair(ellipsoid((30, -5, 52), (24, 55, 30)), hu["brain"] - 6)
    canvas.pair(tube([(6, 38, 58), (9, 5, 66), (22, -35, 50), (32, -10, 34)], [5, 6, 7, 4]), hu["fluid"])
    canvas.paint(ellipsoid((0, 0, 44), (3, 14, 10)), hu["fluid"])
    canvas.paint(ellipsoid((0, 20, 2), (18, 7, 16)), hu["fluid"], strength=0.8)
    canvas.paint(ellipsoid((0, 12, 32), (22, 14, 7)), hu["fluid"], strength=0.7)
    canvas.paint(tube([(0, -6, -36), (0, -6, -18)], [13, 12]), hu["fluid"], strength=0.8)
    stem = brainstem(s)
    canvas.paint(stem, hu["brainstem"], label=BRAINSTEM)
    canvas.paint(ellipsoid((0, -17, 2), (8, 4, 9)), hu["fluid"], strength=0.8)
    if s.contrast:
        canvas.paint(tube([(0, 17, -20), (0, 18, 18)], 2.2), hu["artery"])
        canvas.pair(tube([(6, 18, 22), (38, 16, 26)], 2), hu["artery"])
        canvas.pair(tube([(0, -88, 8), (45, -62, 6), (56, -30, -6)], 4.5), hu["vein"])


def paint_face(canvas: Canvas, s: Subject) -> None:
    """Paint fat and muscles of the face, orbits, cheek bones, nose, sinuses, palate and ears."""
    hu = s.hu
    canvas.pair(ellipsoid((46, 66, -42), (14, 20, 22)), hu["fat"], strength=0.9)
    canvas.pair(ellipsoid((56, 44, 10), (12, 26, 16)), hu["fat"], strength=0.8)
    orbit = ellipsoid((31, 66, 14), (18, 30, 18))
    canvas.pair(orbit.grown(2.5), 650)
    canvas.paint(
        union([tube([(0, 88, 12), (0, 74, -22)], [17, 17]), tube([(0, 60, 4), (0, 52, -6)], [15, 14])]), 300
    )
    canvas.pair(orbit.grown(-0.5), hu["fat"] + 15)
    canvas.pair(ellipsoid((32, 92, 14), (15, 10, 13)), hu["skin"])
    canvas.pair(tube([(29, 70, 14), (14, 42, 12)], 2.5), 30)
    for dx, dz in ((11, 0), (-10, 0), (0, 11), (0, -10)):
        canvas.pair(tube([(31 + dx, 78, 14 + dz), (16 + 0.3 * dx, 46, 12 + 0.3 * dz)], 2.2), hu["muscle"])
    canvas.pair(ellipsoid((32, 80, 14), (12.5, 12, 12.5)), 18)
    canvas.pair(ellipsoid((32, 90, 14), (5, 2.5, 5)), 110)
    canvas.pair(tube([(22, 88, -22), (46, 74, -8), (62, 52, -4), (66, 18, -3)], [4, 7, 3.5, 3.5]), 800)
    maxilla = ellipsoid((27, 72, -14), (17, 19, 18))
    canvas.pair(maxilla, 600)
    canvas.pair(maxilla.grown(-2.5), -980)
    palate = loft([(-37, 74, 29, 30), (-31, 74, 28, 30)], egg=0.15, smooth=4)
    canvas.paint(palate, 0.6 * hu["cortical"])
    canvas.pair(tube([(16, 46, -4), (17, 42, -34)], [3.5, 3]), 700)
    nose = [
        (12, 82, 5, 18),
        (0, 80, 8, 26),
        (-14, 78, 12, 34),
        (-26, 78, 13, 34),
    ]
    canvas.paint(loft(nose, smooth=6), -960)
    canvas.paint(band([(0, 104, -26, 12, 1.2), (0, 52, -26, 6, 1.2)], rounding=1), 90)
    for z in (-20, -10):
        canvas.pair(tube([(8, 96, z), (8, 58, z)], [2, 4]), hu["mucosa"])
    canvas.pair(tube([(6, 108, -18), (7, 116, -24)], [4, 4]), -980)
    canvas.pair(ellipsoid((8, 78, 14), (6, 17, 9)), -700)
    canvas.pair(ellipsoid((9, 38, 1), (8, 11, 9)), -990)
    ear = ellipsoid((79, -10, -2), (5, 16, 28), tilt=12)
    canvas.pair(ear, -20)
    canvas.pair(ellipsoid((82, -4, -4), (4, 8, 13)), -900, strength=0.8)


def paint_masticators(canvas: Canvas, s: Subject) -> None:
    """Paint the masticatory muscles, the tongue and the floor of the mouth."""
    hu = s.hu
    canvas.pair(ellipsoid((58, 40, -42), (8, 17, 28), tilt=-10), hu["muscle"])
    canvas.pair(ellipsoid((63, 38, 14), (6, 24, 32)), hu["muscle"])
    canvas.pair(tube([(19, 42, -18), (44, 34, -58)], [8, 8]), hu["muscle"])
    canvas.pair(tube([(22, 46, -6), (48, 26, -10)], [8, 5]), hu["muscle"])
    canvas.pair(ellipsoid((30, 22, -45), (9, 10, 22)), hu["fat"], strength=0.75)
    canvas.paint(loft([(-90, 70, 24, 30), (-70, 72, 32, 34), (-48, 70, 32, 36)], egg=0.15), hu["muscle"] - 8)
    tongue = ellipsoid((0, 68, -56), (25, 33, 20))
    canvas.paint(tongue, hu["muscle"] + 6)
    canvas.paint(
        band([(0, 90, -78, -56, 1.6), (0, 58, -78, -56, 1.6)], rounding=1), hu["fat"] + 40, strength=0.6
    )
    if s.mouth_open:
        canvas.paint(ellipsoid((0, 76, -38), (20, 26, 2 + 0.3 * s.mouth_open)), -950)


def mandible(s: Subject) -> Solid:
    """Return the mandible: body, angle, ramus, condyle and coronoid process on both sides."""
    k = s.jaw_size
    rows = [
        (0, 107, -77, -53, 5.6 * k),
        (14, 104, -77, -53, 5.4 * k),
        (27, 93, -76, -52, 5.2 * k),
        (38, 75, -74, -50, 5.3 * k),
        (45, 58, -71, -45, 5.6 * k),
        (48.5, 46, -68, -33, 4.8 * k),
        (50.5, 37, -64, -23, 4.3 * k),
        (51.5, 28, -52, -16, 4.3 * k),
    ]
    condyle = tube([(51.5, 28, -26), (53, 24, -12), (53, 23, -8)], [4.2 * k, 4.8 * k, 6.2 * k])
    coronoid = tube([(50, 40, -26), (50, 44, -12)], [4.3 * k, 3 * k])
    return union([band(rows), condyle, coronoid], blend=4)


_ARCH = ((0, 104), (13, 101.5), (24, 92), (33, 78), (41, 60))


def paint_jaw(canvas: Canvas, s: Subject) -> None:
    """Paint teeth, maxillary arch, metal fillings and the mandible with its marrow."""
    hu, opening = s.hu, -0.4 * s.mouth_open
    upper = band([(x, y, -44, -32, 6.5) for x, y in _ARCH])
    canvas.pair(upper, 0.7 * hu["cortical"])
    canvas.pair(band([(x, y, -45, -36, 4.5) for x, y in _ARCH], rounding=2), hu["tooth"])
    jaw = mandible(s)
    for side in (1, -1):
        canvas.paint(jaw, hu["jaw_cortex"], side=side)
        canvas.paint(jaw.grown(-2.4), hu["jaw_marrow"], side=side)
        canvas.paint(jaw, None, side=side, label=MANDIBLE)
    lower = band([(x, y - 1, -60, -47 + opening, 4.2) for x, y in _ARCH], rounding=2)
    canvas.pair(lower, hu["tooth"])
    for tooth in metal_teeth(s):
        canvas.paint(ellipsoid(tooth, (4, 4, 4)), 3000)


def metal_teeth(s: Subject) -> list[tuple[float, float, float]]:
    """Return the positions of metal fillings in the head frame, in mm."""
    spots = []
    for index in s.metal:
        x, y = (float(v) for v in _ARCH[2 + index % 3])
        spots.append((x if index % 2 else -x, y, -42.0 if index % 4 < 2 else -50.0))
    return spots


def paint_parotids(canvas: Canvas, s: Subject) -> None:
    """Paint the parotid glands behind and over the rami, below the ears; the jaw is painted later."""
    jaw = mandible(s)
    for side, label, size in ((1, RIGHT_PAROTID, s.parotid_size[0]), (-1, LEFT_PAROTID, s.parotid_size[1])):
        deep = ellipsoid((56.5, 16, -38), (13.5 * size, 14 * size, 26 * size), tilt=-6)
        over = ellipsoid((65, 28, -39), (7.5 * size, 17 * size, 20 * size))
        gland = union([deep, over], blend=8)
        mastoid = tube([(52, -14, -4), (54, -10, -26)], [13, 8])
        gland = gland.without(jaw.grown(2)).without(mastoid.grown(1))
        canvas.paint(gland, s.hu["parotid"], side=side, label=label)
        vein = tube([(57, 17, -12), (56, 17, -66)], 2.8)
        canvas.paint(vein, s.hu["vein"], side=side)
