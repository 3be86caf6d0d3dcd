"""Draw the module map as an SVG: one panel per package, one line of boxes per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, GAP, STEP = 980, 20, 62
BOX, PASSAGE, SPACE, HEIGHT = 108, 6, 18, 30
HEAD = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {{height}}" \
font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#0f172a">
<title>Subpackages of gCIS and their imports; arrows that follow from others are left out</title>
<defs><marker id="a" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">\
<path d="M0,0 L8,4 L0,8 z" fill="#64748b"/></marker></defs>
<style>.arrow{{{{fill:none;stroke:#64748b;stroke-width:1.1;marker-end:url(#a)}}}}\
.between{{{{fill:none;stroke:#64748b;stroke-width:2;marker-end:url(#a)}}}}\
.subpackage{{{{fill:#ffffff;stroke:#334155}}}}.name{{{{font-weight:700;font-size:15px}}}}</style>
<rect width="{WIDTH}" height="{{height}}" fill="#ffffff"/>"""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A package as it is drawn.

    Attributes:
        name: Name of the package.
        color: Background colour.
        layers: Names of its subpackages per layer, highest layer first.
        edges: Imports to draw, each from a higher to a lower layer.
        notes: Purpose of each subpackage, shown when the pointer rests on its box.
    """

    name: str
    color: str
    layers: Sequence[Sequence[str]]
    edges: Sequence[tuple[str, str]]
    notes: Mapping[str, str]

    @property
    def height(self) -> int:
        """Return the height of the panel in pixels."""
        return 44 + STEP * len(self.layers) - (STEP - HEIGHT) + 16 if self.layers else 34


def chains(panel: Panel) -> list[list[str]]:
    """Return each edge as the nodes that it passes: one unnamed passage per layer in between."""
    level = {name: i for i, layer in enumerate(panel.layers) for name in layer}
    return [
        [a, *(f"{a}>{b}>{i}" for i in range(level[a] + 1, level[b])), b] for a, b in panel.edges
    ]  # fmt: skip


def ordered(panel: Panel, edges: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the nodes of each layer from left to right, sorted by the mean place of their neighbours."""
    lines = [list(layer) for layer in panel.layers]
    level = {name: i for i, layer in enumerate(panel.layers) for name in layer}
    for chain in edges:
        for i, name in enumerate(chain[1:-1], level[chain[0]] + 1):
            lines[i].append(name)
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for chain in edges:
        for a, b in pairwise(chain):
            below.setdefault(a, []).append(b)
            above.setdefault(b, []).append(a)
    for sweep in range(12):
        places = positions(lines, 0, WIDTH)
        neighbours = below if sweep % 2 else above
        for line in reversed(lines) if sweep % 2 else lines:
            means = {
                name: sum(places[n] for n in neighbours[name]) / len(neighbours[name])
                if name in neighbours
                else places[name]
                for name in line
            }
            line.sort(key=lambda name: (means[name], name))
            places |= positions([line], 0, WIDTH)
    return lines


def positions(lines: Sequence[Sequence[str]], x: float, width: float) -> dict[str, float]:
    """Return the centre of every node in pixels, each line centred between `x` and `x + width`."""
    found = {}
    for line in lines:
        sizes = [PASSAGE if ">" in name else BOX for name in line]
        space = min(3 * SPACE, (width - 24 - sum(sizes)) / max(1, len(line) - 1))
        at = x + width / 2 - (sum(sizes) + space * (len(line) - 1)) / 2
        for name, size in zip(line, sizes, strict=True):
            found[name] = at + size / 2
            at += size + space
    return found


def drawn(panel: Panel, x: float, y: float, width: float) -> list[str]:
    """Return the elements of a panel whose upper left corner is (x, y)."""
    parts = [
        f'<rect x="{x}" y="{y}" width="{width}" height="{panel.height}" rx="10" fill="{panel.color}"/>',
        f'<text x="{x + 14}" y="{y + 23}" class="name">{panel.name}</text>',
    ]
    edges = chains(panel)
    lines = ordered(panel, edges)
    centre = positions(lines, x, width)
    top = {name: y + 44 + STEP * i for i, line in enumerate(lines) for name in line}
    for chain in edges:
        parts.append(f'<path d="{path(chain, centre, top)}" class="arrow"/>')
    for name in (name for layer in panel.layers for name in layer):
        left = centre[name] - BOX / 2
        parts.append(
            f'<g><title>{escape(panel.notes[name])}</title><rect x="{left:.0f}" y="{top[name]}" '
            f'width="{BOX}" height="{HEIGHT}" rx="6" class="subpackage"/><text x="{centre[name]:.0f}" '
            f'y="{top[name] + 20}" text-anchor="middle">{name.partition(".")[2]}</text></g>'
        )
    return parts


def path(chain: Sequence[str], centre: Mapping[str, float], top: Mapping[str, float]) -> str:
    """Return the SVG path of an edge: curves between lines, straight passages through them."""
    lean = max(-30.0, min(30.0, (centre[chain[1]] - centre[chain[0]]) / 5))
    land = max(-30.0, min(30.0, (centre[chain[-2]] - centre[chain[-1]]) / 5))
    x, y = centre[chain[0]] + lean, top[chain[0]] + HEIGHT
    text = f"M{x:.0f},{y}"
    for name in chain[1:]:
        to, end = centre[name] + (land if name == chain[-1] else 0), top[name]
        middle = (y + end) / 2
        text += f" C{x:.0f},{middle:.0f} {to:.0f},{middle:.0f} {to:.0f},{end}"
        if name != chain[-1]:
            text += f" L{to:.0f},{end + HEIGHT}"
        x, y = to, end + HEIGHT
    return text


def picture(panels: Mapping[str, Panel]) -> str:
    """Return the SVG of the panels `benchmarks`, `gcis_export`, `gcis_train` and `gcis_runtime`."""
    whole, half = WIDTH - 2 * GAP, (WIDTH - 3 * GAP) / 2
    right = 2 * GAP + half
    export = GAP + panels["benchmarks"].height + 34
    lower = export + panels["gcis_export"].height + 34
    parts = drawn(panels["benchmarks"], GAP, GAP, whole)
    parts += drawn(panels["gcis_export"], GAP, export, whole)
    parts += drawn(panels["gcis_train"], GAP, lower, half)
    parts += drawn(panels["gcis_runtime"], right, lower, half)
    arrows = [(WIDTH / 2, export - 34, WIDTH / 2, export), (GAP + half, lower + 20, right, lower + 20)]
    arrows += [(x, lower - 34, x, lower) for x in (GAP + half / 2, right + half / 2)]
    parts += [f'<path d="M{a:.0f},{b} L{c:.0f},{d}" class="between"/>' for a, b, c, d in arrows]
    height = lower + max(panels["gcis_train"].height, panels["gcis_runtime"].height) + GAP
    return "\n".join([HEAD.format(height=height), *parts, "</svg>", ""])
