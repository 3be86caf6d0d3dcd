"""Paint the body outline, the soft-tissue background, the shoulders and the chest."""

import numpy as np

from gcis_runtime.demo.phantom.canvas import Canvas
from gcis_runtime.demo.phantom.shapes import Field, Solid, ellipsoid, loft, smooth_min, tube, union
from gcis_runtime.demo.phantom.subject import Subject

CRANIUM = ellipsoid((0, -6, 36), (67, 87, 79))


def _head_outline(s: Subject) -> Solid:
    wide = 0.35 * s.fat
    face = loft(
        [
            (52, 22, 60, 70),
            (30, 28, 69 + wide, 72),
            (5, 36, 70 + wide, 72),
            (-20, 40, 70 + wide, 73),
            (-45, 46, 69 + wide, 74),
            (-68, 52, 66 + wide, 70),
            (-82, 54, 58 + wide, 64 + wide),
            (-94, 50, 44 + wide, 48 + wide),
            (-106, 44, 24 + wide, 28 + wide),
        ],
        egg=0.22,
        smooth=14,
    )
    nose = tube([(0, 104, 12), (0, 117, -8), (0, 114, -16)], [6, 10, 9])
    return union([CRANIUM.grown(9 + 0.5 * s.fat), face, nose], blend=14)


def _neck_outline(s: Subject) -> Solid:
    f, g = s.fat - 6, s.girth
    return loft(
        [
            (0, -14, 50, 50),
            (-40, -4, 57 * g + f, 56 + f),
            (-80, 2, 58 * g + f, 62 + f),
            (-120, 5, 58 * g + f, 66 + f),
            (-150, 2, 66 * g + f, 66 + f),
            (-172, 2, 84 * g + f, 70 + f),
            (-200, 6, 120 * g, 78 + f),
        ],
        smooth=16,
    )


def _torso_outline(s: Subject) -> Solid:
    f, g, lift = s.fat - 6, s.girth, s.shoulder_lift
    chest = loft(
        [
            (-158, -10, 60, 40),
            (-172, 0, 112 * g, 58 + f),
            (-195, 16, 146 * g, 80 + f),
            (-225, 33, 166 * g, 100 + f),
            (-258, 46, 174 * g, 114 + f),
            (-400, 60, 178 * g, 124 + f),
        ],
        smooth=16,
    )
    shoulder = [
        tube(
            [
                (side * 40, -26, -146 + 0.5 * lift),
                (side * 110 * g, -18, -184 + lift),
                (side * 166 * g, -4, -212 + lift),
                (side * 194 * g, -2, -275 + lift),
                (side * 200 * g, 0, -400),
            ],
            [26, 38 + f, 50 + f, 52 + f, 50],
        )
        for side in (1, -1)
    ]
    return union([chest, *shoulder], blend=50)


def body_distance(canvas: Canvas, s: Subject) -> Field:
    """Return the signed distance to the skin in mm for every voxel, negative inside the body."""
    head = _head_outline(s).distance(*canvas.frames["head"])
    neck = _neck_outline(s).distance(*canvas.frames["neck"])
    result = smooth_min(head, neck, 22)
    z = canvas.frames["neck"][2]
    low = slice(0, max(1, int(np.flatnonzero((z < -100).any(axis=(0, 1))).max(initial=0)) + 1))
    x, y, z = (c[:, :, low] for c in canvas.frames["neck"])
    result[:, :, low] = smooth_min(result[:, :, low], _torso_outline(s).distance(x, y, z), 40)
    return result


def texture(canvas: Canvas, s: Subject) -> Field:
    """Return a texture with unit standard deviation that varies over centimetres, fixed to the anatomy."""
    x, y, z = canvas.frames["neck"]
    total = np.zeros(canvas.grid.shape, np.float32)
    for kx, ky, kz, phase in s.waves:
        total += np.sin(np.float32(kx) * x + np.float32(ky) * y + np.float32(kz) * z + np.float32(phase))
    return np.asarray(total / np.sqrt(len(s.waves) / 2), np.float32)


def paint_background(canvas: Canvas, s: Subject, skin: Field) -> None:
    """Paint skin, subcutaneous fat, and muscle with planes of fat below."""
    hu = s.hu
    canvas.ct += canvas.cover(skin) * (hu["skin"] + 1000)
    canvas.ct += canvas.cover(skin + 2) * (hu["fat"] - canvas.ct)
    depth = skin + s.fat
    planes = np.clip(1.8 * (texture(canvas, s) - 0.8), 0, 1)
    deep = hu["muscle"] + planes * 0.85 * (hu["fat"] - hu["muscle"])
    canvas.ct += canvas.cover(depth) * (deep - canvas.ct)


def paint_chest(canvas: Canvas, s: Subject, skin: Field) -> None:
    """Paint lungs, ribs, great vessels, sternum, clavicles, scapulae and humeral heads."""
    hu = s.hu
    for side in (1, -1):
        cage = ellipsoid((side * 60, 26, -300), (52, 68, 116))
        found = canvas.distance(cage, "neck")
        if found is not None:
            box, d = found
            _, y, z = (c[box] for c in canvas.frames["neck"])
            level = np.cos(2 * np.pi / 26 * (z + 0.45 * y))
            rib = np.maximum(np.abs(d - 4) - 4, (np.float32(0.45) - level) * 5)
            rib = np.maximum(rib, skin[box] + 6)
            canvas.ct[box] += canvas.cover(rib) * (520 - canvas.ct[box])
            canvas.ct[box] += canvas.cover(np.maximum(d + 2, skin[box] + 16)) * (hu["lung"] - canvas.ct[box])
    canvas.paint(tube([(0, 40, -205), (0, 52, -300)], [24, 34]), hu["muscle"] - 20, frame="neck")
    arch = tube([(18, 70, -290), (14, 64, -245), (-8, 40, -236), (-20, 12, -250), (-20, 10, -300)], 13)
    canvas.paint(arch, hu["artery"], frame="neck")
    canvas.paint(tube([(26, 62, -222), (24, 55, -300)], 9), hu["vein"], frame="neck")
    manubrium = tube([(0, 84, -212), (0, 104, -250), (0, 118, -300)], [13, 12, 10])
    canvas.paint(manubrium, 230, frame="neck")
    bone, marrow = 0.75 * hu["cortical"], 0.75 * hu["spongy"]
    wide, lift = s.girth, s.shoulder_lift
    top = lift - 214  # centre of the humeral heads
    clavicle = [(14, 84, -200), (50, 80, -192), (95, 40, top + 26), (150 * wide, 4, top + 24)]
    canvas.pair(ellipsoid((112, -44, top - 40), (27, 4, 46), tilt=-8), 480, frame="neck")
    for shape, core in (
        (tube(clavicle, [9, 6.5, 6, 7]), -2.5),
        (ellipsoid((166 * wide, -2, top), (24, 25, 25)), -2.5),
        (tube([(172 * wide, -2, top - 11), (190 * wide, 0, -400)], [17, 13]), -4.0),
        (
            tube([(150 * wide, -10, top + 10), (132 * wide, -32, top + 4), (88, -52, top - 12)], [11, 8, 6]),
            -2.5,
        ),
        (tube([(138 * wide, -14, top - 4), (132, -30, top - 30), (112, -44, top - 85)], [10, 6, 5]), -2.0),
    ):
        canvas.pair(shape, bone, frame="neck")
        canvas.pair(shape.grown(core), marrow, frame="neck")
