"""Draw the routing table as an image: prompts by positions, coloured by chosen block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from gcis_runtime.bundles.manifest import POSITIONS
from gcis_runtime.system.atomic_files import replacing
from gcis_train.colors import Color, spread_color
from gcis_train.nets.pathway import group_equal
from gcis_train.routing.decisions import Routing

# Palette of Okabe and Ito, distinguishable with colour vision deficiency; black is omitted.
_PALETTE: tuple[Color, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)
_INK: Color = (20, 20, 20)
_GREY: Color = (105, 105, 105)
_CELL, _ROW, _PAD = 84, 22, 14
_WIDEST = 420
_SURE = 4.0
"""Router gap at which a cell has full colour: the second block is then less than 2 % as likely."""


def write_heatmap(path: Path, routings: Sequence[Routing], *, pathways: int) -> None:
    """Write the image as PNG, atomically.

    Args:
        path: File to write.
        routings: Rows of the table, in order.
        pathways: Number of blocks per position, for the legend.

    Raises:
        OutputError: The file cannot be written.
    """
    picture = draw_heatmap(routings, pathways=pathways)
    with replacing(path) as temporary, temporary.open("wb") as file:
        picture.save(file, format="PNG")


def draw_heatmap(routings: Sequence[Routing], *, pathways: int) -> Image.Image:
    """Draw one row per prompt and one column per position.

    A cell shows the chosen block, counted from 1, in the colour of the block, and the router gap; a smaller
    gap is paler. A letter at the right marks prompts with identical pathways.
    """
    bold, small = ImageFont.load_default(14), ImageFont.load_default(11)
    names = {r.prompt: _short(r.prompt, bold) for r in routings}
    left = math.ceil(max(bold.getlength(name) for name in names.values())) + 2 * _PAD
    top = 2 * _PAD + 2 * _ROW
    size = (left + len(POSITIONS) * _CELL + 4 * _PAD, top + (len(routings) + 3) * _ROW + _PAD)
    picture = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    distinct = len({r.pathway for r in routings})
    draw.text((_PAD, _PAD), f"{len(routings)} prompts, {distinct} distinct pathways", _INK, bold)
    for column, name in enumerate(POSITIONS):
        draw.text((left + (column + 0.5) * _CELL, top - 6), name, _INK, bold, anchor="ms")
    marks = _marks(routings)
    for row, routing in enumerate(routings):
        y = top + row * _ROW
        draw.text((left - _PAD, y + _ROW / 2), names[routing.prompt], _INK, bold, anchor="rm")
        _draw_row(draw, routing, (left, y), bold, small)
        if mark := marks.get(routing.prompt):
            draw.text((size[0] - 2 * _PAD, y + _ROW / 2), mark, _INK, bold, anchor="mm")
    _draw_legend(draw, pathways, (left, top + (len(routings) + 1) * _ROW), small, marked=bool(marks))
    return picture


def _draw_row(
    draw: ImageDraw.ImageDraw,
    routing: Routing,
    corner: tuple[int, int],
    bold: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    small: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    for column, (block, gap) in enumerate(zip(routing.pathway.one_based, routing.router_gaps, strict=True)):
        x, y = corner[0] + column * _CELL, corner[1]
        fill = _pale(_color(block - 1), min(gap / _SURE, 1.0))
        draw.rectangle((x, y, x + _CELL - 2, y + _ROW - 2), fill=fill)
        draw.text((x + 0.3 * _CELL, y + _ROW / 2 - 1), str(block), _INK, bold, anchor="mm")
        if math.isfinite(gap):
            draw.text((x + _CELL - 8, y + _ROW / 2 - 1), f"{gap:.1f}", _INK, small, anchor="rm")


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    pathways: int,
    corner: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    *,
    marked: bool,
) -> None:
    x, y = corner
    width = min(40, len(POSITIONS) * _CELL // pathways)
    for block in range(pathways):
        place = (x + block * width, y, x + (block + 1) * width - 2, y + _ROW - 6)
        draw.rectangle(place, fill=_color(block))
        draw.text((place[0] + width / 2 - 1, y + _ROW / 2 - 3), str(block + 1), _INK, font, anchor="mm")
    text = "colour and large number: chosen block; paleness and small number: router gap to the second block"
    draw.text((x, y + _ROW), text, _GREY, font)
    if marked:
        draw.text((x, y + 1.7 * _ROW), "same letter: same pathway and therefore the same mask", _GREY, font)


def _marks(routings: Sequence[Routing]) -> dict[str, str]:
    """Return a mark for each prompt that shares its pathway with another: A to Z, then A1, B1 and so on."""
    groups = group_equal({r.prompt: r.pathway for r in routings})
    return {
        prompt: chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")
        for number, group in enumerate(groups)
        for prompt in group
    }


def _color(block: int) -> Color:
    """Return the colour of a block; beyond the palette, a generated one."""
    return _PALETTE[block] if block < len(_PALETTE) else spread_color(block)


def _pale(color: Color, strength: float) -> Color:
    """Return the colour mixed with white; at strength 0, a fifth of the colour remains."""
    share = 0.2 + 0.8 * strength
    red, green, blue = (round(255 + (c - 255) * share) for c in color)
    return red, green, blue


def _short(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return the text, shortened with an ellipsis if it is wider than the column."""
    width = font.getlength(text)
    if width <= _WIDEST:
        return text
    text = text[: math.ceil(len(text) * _WIDEST / width)]
    while font.getlength(f"{text}…") > _WIDEST:
        text = text[:-1]
    return f"{text}…"
