"""Paint the spine, the airway, the oesophagus, and the muscles, glands and vessels of the neck."""

import numpy as np

from gcis_runtime.demo.phantom.canvas import Canvas
from gcis_runtime.demo.phantom.shapes import Solid, Table, ellipsoid, loft, tube
from gcis_runtime.demo.phantom.subject import Subject

SPINAL_CORD, OESOPHAGUS, LARYNX = 2, 5, 6

CORD_TOP = -28.0
# Centres of the vertebral bodies C1 to T8 along z, in mm.
_LEVELS = (-40, -55, -71, -87, -103, -119, -136, -155, -175, -196, -218, -241, -265, -290, -315)
_LEVEL = Table(_LEVELS, tuple(range(len(_LEVELS))), smooth=2)


def canal(s: Subject) -> Solid:
    """Return the vertebral canal."""
    k = s.cord_size
    return loft([(CORD_TOP, 0, 13, 13), (-50, 0, 11 * k, 9.5 * k), (-400, 0, 10 * k, 8.8 * k)], smooth=10)


def cord(s: Subject) -> Solid:
    """Return the spinal cord as clinicians contour it, slightly wider than the cord itself."""
    k = s.cord_size
    rows = [(CORD_TOP, 0, 6.6, 6.2), (-60, 0, 6.8 * k, 6.0 * k), (-130, 0, 7.2 * k, 6.2 * k)]
    return loft([*rows, (-160, 0, 6.6 * k, 6.0 * k), (-400, 0, 6.2 * k, 5.8 * k)])


def paint_spine(canvas: Canvas, s: Subject) -> None:
    """Paint vertebral bodies, discs, arches, canal and cord."""
    hu = s.hu
    region = Solid(low=(-45, -55, -400), high=(45, 36, -30), distance=lambda x, y, z: x)
    box = canvas.box(region, "neck", 0)
    if box is None:
        return
    x, y, z = (c[box] for c in canvas.frames["neck"])
    phase = _LEVEL(z)
    offset = np.abs(phase - np.round(phase))  # 0 in the middle of a vertebra, 0.5 in the disc
    wide = np.abs(x)
    top = z + 33
    size = 1 + 0.18 * np.clip((-z - 100) / 120, 0, 1.5)
    column = (np.sqrt((x / (12.5 * size)) ** 2 + ((y - 9.2 - 8.8 * size) / (8.8 * size)) ** 2) - 1) * 9
    column = np.maximum(column, np.where(z > -60, wide - 8, column))
    disc = np.float32(0.36) - offset  # negative within the disc
    ct = canvas.ct[box]

    def put(distance: np.ndarray, value: float) -> None:
        ct[...] += canvas.cover(np.maximum(distance, top).astype(np.float32)) * (np.float32(value) - ct)

    put(column, hu["disc"])
    put(np.maximum(column, -disc * 18), 0.62 * hu["cortical"])
    put(np.maximum(column + 2.4, -(disc - 0.09) * 18), hu["spongy"])
    arch = np.maximum(np.abs(np.sqrt((x / 1.15) ** 2 + y * y) - 11.5) - 2.3, (offset - 0.3) * 16)
    put(arch, 0.6 * hu["cortical"])
    lateral = np.sqrt(((wide - 19) / 9) ** 2 + ((y - 5) / 7) ** 2 + (offset / 0.42) ** 2)
    put((lateral - 1) * 6, 0.5 * hu["cortical"])
    put((lateral - 0.6) * 6, 0.9 * hu["spongy"])
    slanted = _LEVEL(z - 0.35 * (y + 12))
    spike = np.abs(slanted - np.round(slanted))
    length = 28 + 14 * np.clip((-z - 90) / 60, -0.6, 1)
    spine = np.maximum(np.maximum(wide - 3.5, (spike - 0.25) * 16), np.maximum(y + 11, -length - y))
    put(spine, 0.55 * hu["cortical"])
    canvas.paint(canal(s), hu["fluid"] + 6, frame="neck")
    canvas.paint(cord(s), hu["cord"], frame="neck", label=SPINAL_CORD)


def paint_muscles(canvas: Canvas, s: Subject) -> None:
    """Paint the long neck muscles over fat: sternomastoid, scalene, longus and paraspinal muscles."""
    hu = s.hu
    canvas.pair(ellipsoid((34, 26, -105), (15, 22, 60)), hu["fat"], frame="neck", strength=0.75)
    canvas.pair(ellipsoid((52, -2, -150), (14, 24, 34)), hu["fat"], frame="neck", strength=0.7)
    mastoid = tube([(56, 0, -28), (50, 16, -80), (36, 44, -140), (16, 76, -200)], [9, 11, 10, 8])
    canvas.pair(mastoid, hu["muscle"], frame="neck")
    canvas.pair(tube([(24, 8, -70), (34, 6, -140), (56, 14, -195)], [8, 10, 9]), hu["muscle"], frame="neck")
    canvas.pair(tube([(8, 31, -40), (10, 32, -190)], [4.5, 5.5]), hu["muscle"], frame="neck")
    canvas.paint(tube([(0, -30, -45), (0, -46, -200)], 2), hu["fat"], frame="neck", strength=0.6)


def paint_vessels(canvas: Canvas, s: Subject) -> None:
    """Paint carotid arteries, jugular veins, vertebral arteries and lymph nodes."""
    hu = s.hu
    canvas.pair(
        tube([(20, 34, -225), (22, 40, -140), (27, 36, -95), (24, 30, -30)], [5, 4, 4, 3]),
        hu["artery"],
        frame="neck",
    )
    canvas.pair(
        tube([(28, 36, -215), (33, 34, -140), (35, 28, -90), (32, 18, -30)], [8, 7, 6, 5]),
        hu["vein"],
        frame="neck",
    )
    canvas.pair(tube([(17, 9, -150), (17, 9, -60)], 2.2), hu["artery"], frame="neck")
    for z in (-78, -100, -126):
        canvas.pair(ellipsoid((40, 26, z), (4, 5, 6)), hu["muscle"] - 5, frame="neck")


def larynx(s: Subject) -> Solid:
    """Return the larynx as clinicians contour it: cartilages and soft tissue with the air between them."""
    k, z = s.larynx_size, s.larynx_shift - 117
    rows = [(z - 16 * k, 49, 15 * k, 14 * k), (z, 50, 16.5 * k, 15.5 * k), (z + 16 * k, 51, 16.5 * k, 15 * k)]
    return loft(rows, egg=0.12, smooth=6)


def _airway(s: Subject) -> Solid:
    z, k, w = s.larynx_shift - 117, s.larynx_size, s.pharynx_width
    return loft(
        [
            (-10, 38, 12, 9),
            (-28, 38, 13, 8 * w),
            (-44, 37, 11, 5 * w),
            (-58, 37, 11, 6 * w),
            (-75, 40, 12, 8 * w),
            (z + 22, 43, 13, 8),
            (z + 12, 47, 8.6 * k, 9.4 * k),
            (z + 2, 50, 4.8 * k, 9.8 * k),
            (z - 4, 50, 5.6 * k, 9.8 * k),
            (z - 14, 48, 8.4 * k, 9.4 * k),
            (z - 40, 50, 8.5, 8.2),
            (-190, 52, 8.5, 8.2),
            (-260, 53, 9, 8.5),
            (-400, 53, 9, 8.5),
        ],
        smooth=6,
    )


def paint_airway(canvas: Canvas, s: Subject) -> None:
    """Paint pharynx, larynx, trachea, thyroid gland and cartilages."""
    hu, k, z = s.hu, s.larynx_size, s.larynx_shift - 117
    airway = _airway(s)
    canvas.paint(airway.grown(5), hu["mucosa"], frame="neck")
    canvas.paint(ellipsoid((0, 45, z + 2), (24, 24, 34)), hu["mucosa"] - 15, frame="neck", strength=0.7)
    hyoid = tube([(0, 64, z + 28), (14, 59, z + 28), (22, 40, z + 32)], [4, 3.2, 2.5])
    canvas.pair(hyoid, 480, frame="neck")
    shield = loft([(z - 10, 49, 17 * k, 17 * k), (z + 14, 50, 18 * k, 18 * k)], egg=0.3, smooth=4).shell(3.5)
    front = ellipsoid((0, 60, z + 3), (30, 22, 15 * k))
    canvas.paint(shield.within(front), hu["cartilage"], frame="neck")
    cricoid = loft([(z - 17, 48, 11 * k, 11.5 * k), (z - 9, 48, 11 * k, 11.5 * k)], smooth=3).shell(4)
    canvas.paint(cricoid, hu["cartilage"] + 40, frame="neck")
    canvas.paint(ellipsoid((0, 33, z - 8), (9 * k, 4, 8)), hu["cartilage"] + 40, frame="neck")
    canvas.pair(
        tube([(13, 50, z - 12), (17, 44, -150), (18, 40, -170)], [5, 9, 5]), hu["thyroid"], frame="neck"
    )
    canvas.paint(tube([(-10, 60, -150), (10, 60, -150)], 4), hu["thyroid"], frame="neck")
    canvas.paint(airway, -985, frame="neck")
    canvas.paint(ellipsoid((0, 44, -43), (14, 4.5, 14), tilt=-20), hu["mucosa"])
    canvas.paint(tube([(0, 52, z + 12), (0, 46, z + 34)], [3, 4]), hu["mucosa"], frame="neck")
    canvas.paint(larynx(s), None, frame="neck", label=LARYNX)


def paint_oesophagus(canvas: Canvas, s: Subject) -> None:
    """Paint the oesophagus from below the cricoid, between trachea and spine, slightly to the left."""
    k, top = s.oesophagus_size, s.larynx_shift - 138
    rows = [(-400, 38, 9 * k, 6.4 * k), (-230, 37.5, 9 * k, 6.2 * k), (top, 34, 9 * k, 5.4 * k)]
    canvas.paint(loft([*rows, (top + 20, 33, 10, 4)], centre_x=-3), s.hu["oesophagus"], frame="neck")
    if s.oesophagus_air:
        lumen = tube([(-3, 38, -330), (-3, 37.5, -230), (-3, 35, top - 12)], s.oesophagus_air)
        canvas.paint(lumen, -800, frame="neck")
    end = max(s.oesophagus_end, -230)
    bottom = 34 + (37.5 - 34) * (end - top) / (-230 - top)
    contour = loft([(end, bottom, 9 * k, 6.2 * k), (top, 34, 9 * k, 5.4 * k)], centre_x=-3)
    canvas.paint(contour, None, frame="neck", label=OESOPHAGUS)


def paint_submandibular(canvas: Canvas, s: Subject) -> None:
    """Paint the submandibular glands (head frame)."""
    canvas.pair(ellipsoid((33, 56, -78), (8.5, 14, 12)), s.hu["submandibular"])
