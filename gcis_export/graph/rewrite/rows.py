"""Replace chains of operators that only move the rows of a matrix by one Gather.

Windows are cut by Reshape, Pad, Reshape, Transpose, Reshape, and joined by Reshape, Transpose, Reshape,
Slice, Reshape. Such a chain is run once on the numbers of the elements. If whole rows moved, a Gather with
the row numbers gives the same result. Padding becomes a row of zeros: ONNX Runtime has no bfloat16 Pad on
CUDA.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from gcis_export.graph.rewrite.draft import Draft, attribute

_MOVES = ("Reshape", "Transpose", "Slice", "Pad", "Gather")


def gather_rows(draft: Draft) -> None:
    """Replace every chain that moves rows, if that reduces the number of operators or removes a Pad."""
    for node in list(draft.nodes):
        if node.op_type in _MOVES and any(node is n for n in draft.nodes):
            chain = _chain(draft, node)
            if chain is not None:
                _replace(draft, chain)


def _chain(draft: Draft, last: NodeProto) -> list[NodeProto] | None:
    """Return the chain of moves that ends with a node, first operator first; None if the chain goes on."""
    if draft.reader(last.output[0], *_MOVES) is not None or draft.constant(last.input[0]) is not None:
        return None
    chain = [last]
    while (before := draft.maker(chain[0].input[0], *_MOVES)) is not None:
        if draft.reader(before.output[0]) is None or draft.constant(before.input[0]) is not None:
            break
        chain.insert(0, before)
    return chain


def _replace(draft: Draft, chain: list[NodeProto]) -> None:
    source, target = chain[0].input[0], chain[-1].output[0]
    before, after = draft.shapes[source], draft.shapes[target]
    width = before[-1]
    if len(before) < 2 or len(after) != 2 or after[1] % width or len(chain) < 2:
        return
    rows = _moved_rows(draft, chain, before)
    if rows is None:
        return
    count = int(np.prod(before[:-1]))
    new: list[NodeProto] = []
    if len(before) > 2:
        shape = draft.add(f"{target}.rows.shape", np.array([-1, width]))
        new.append(helper.make_node("Reshape", [source, shape], [f"{target}.rows"]))
        source = f"{target}.rows"
    if (rows == count).any():
        zero = draft.add(f"zero.{width}", np.zeros((1, width), np.float32))
        new.append(helper.make_node("Concat", [source, zero], [f"{target}.padded"], axis=0))
        source = f"{target}.padded"
    if rows.shape != (count,) or not np.array_equal(rows, np.arange(count)):
        index = rows.reshape(after[0], -1) if after[1] > width else rows
        index_name = draft.add(f"{target}.index", index.astype(np.int32))
        new.append(helper.make_node("Gather", [source, index_name], [f"{target}.gathered"], axis=0))
        source = f"{target}.gathered"
    if after[1] > width or not new:
        shape = draft.add(f"{target}.shape", np.array(after))
        new.append(helper.make_node("Reshape", [source, shape], [f"{target}.reshaped"]))
    before_after = [sum(n.op_type != "Reshape" for n in nodes) for nodes in (chain, new)]
    if len(new) < len(chain) or before_after[1] < before_after[0] or any(n.op_type == "Pad" for n in chain):
        new[-1].output[0] = target
        draft.replace(chain[-1], new)


def _moved_rows(draft: Draft, chain: list[NodeProto], shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Return the source row of every row of the result, or None if the chain does not move whole rows.

    A zero row has the number of rows of the source.
    """
    width = shape[-1]
    numbers: NDArray[np.int64] = np.arange(1, int(np.prod(shape)) + 1).reshape(shape)
    for node in chain:
        moved = _moved(draft, node, numbers)
        if moved is None:
            return None
        numbers = moved
    numbers = numbers.reshape(-1, width)
    first = numbers[:, :1]
    zero = ~numbers.any(axis=1)
    whole = (numbers == first + np.arange(width)).all(axis=1) & ((first[:, 0] - 1) % width == 0)
    if not (zero | whole).all():
        return None
    return np.where(zero, int(np.prod(shape[:-1])), (first[:, 0] - 1) // width)


def _moved(draft: Draft, node: NodeProto, x: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Apply a move to an array; return None if it is not a constant move."""
    found = [draft.constant(name) for name in node.input[1:]]
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        return None
    moved: NDArray[np.int64] | None
    if node.op_type == "Reshape":
        moved = x.reshape(values[0].tolist())
    elif node.op_type == "Transpose":
        moved = x.transpose(attribute(node, "perm"))
    elif node.op_type == "Gather":
        moved = np.take(x, values[0], axis=attribute(node, "axis", 0))
    elif node.op_type == "Slice":
        moved = x[_cut(x.ndim, values)]
    elif len(values) > 1 or (values[0] < 0).any():
        moved = None  # a Pad with a value or axes, or a Pad that crops
    else:
        moved = np.pad(x, values[0].reshape(2, -1).T)
    return moved


def _cut(axes: int, values: list[NDArray[Any]]) -> tuple[slice, ...]:
    """Return the slices of a Slice with the inputs starts, ends, axes and, optionally, steps."""
    cut = [slice(None)] * axes
    steps = values[3] if len(values) > 3 else np.ones_like(values[0])
    for start, end, axis, step in zip(*values[:3], steps, strict=True):
        cut[axis] = slice(int(start), int(end), int(step))
    return tuple(cut)
