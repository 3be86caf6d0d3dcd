"""Replace large constants of a graph by operators on small constants, which engines compute on loading.

Row numbers of Gathers are sums of a column and a row, and regions of windows repeat. The new operators
depend on constants alone, and no value changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

_WORTH = 4096
"""Minimum number of bytes that a replacement saves; a node takes about 100."""
_MOST_ROWS = 64
"""Largest number of distinct rows of a constant that is considered as repeated."""


def compacted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph with smaller constants that computes exactly the same.

    Args:
        model: A graph whose initializers are stored as raw bytes.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    parts = _Parts()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        done = values.ndim == 2 and (
            parts.add_sum(tensor.name, values)
            if np.issubdtype(values.dtype, np.integer)
            else parts.add_repeated(tensor.name, values)
        )
        if not done:
            parts.tensors.append(tensor)
    nodes = [*parts.nodes, *model.graph.node]
    del small.graph.node[:], small.graph.initializer[:]
    small.graph.node.extend(nodes)
    small.graph.initializer.extend(parts.tensors)
    onnx.checker.check_model(small, full_check=True)
    return small


@dataclass(kw_only=True)
class _Parts:
    """Operators and constants of the new graph; equal new constants are stored once."""

    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    made: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)

    def add_sum(self, name: str, values: NDArray[Any]) -> bool:
        """Add an integer matrix as max(column + row, minimum of the column); return whether it has this form.

        The maximum describes columns of equal values, such as those of tokens that pad a window.
        """
        rows = values[:, :1]
        columns = (values - rows).min(axis=0, keepdims=True)
        least = values.min(axis=0, keepdims=True)
        if values.nbytes - rows.nbytes - 2 * columns.nbytes < _WORTH:
            return False
        plain = np.array_equal(rows + columns, values)
        if not plain and not np.array_equal(np.maximum(rows + columns, least), values):
            return False
        total = name if plain else f"{name}.sum"
        parts = [self._constant(f"{name}.rows", rows), self._constant(f"{name}.columns", columns)]
        self._node("Add", parts, total)
        if not plain:
            self._node("Max", [total, self._constant(f"{name}.least", least)], name)
        return True

    def add_repeated(self, name: str, values: NDArray[Any]) -> bool:
        """Add a matrix as a Gather of its distinct blocks of rows; return whether that is smaller."""
        rows, width = values.shape
        if values.nbytes < 2 * _WORTH or len(_distinct(values, 1, most=_MOST_ROWS)) > _MOST_ROWS:
            return False
        divisors = [size for size in range(1, rows + 1) if rows % size == 0]
        costs = {n: len(_distinct(values, n)) * values[:n].nbytes + 4 * rows // n for n in divisors}
        size = min(divisors, key=costs.__getitem__)
        if values.nbytes - costs[size] < _WORTH:
            return False
        first = _distinct(values, size)
        blocks = values.reshape(-1, size, width)
        which = np.array([first[block.tobytes()] for block in blocks])
        _, which = np.unique(which, return_inverse=True)
        inputs = [
            self._constant(f"{name}.blocks", blocks[sorted(first.values())]),
            self._constant(f"{name}.which", which.astype(np.int32)),
        ]
        self._node("Gather", inputs, f"{name}.gathered", axis=0)
        shape = self._constant(f"{name}.shape", np.array(values.shape))
        self._node("Reshape", [f"{name}.gathered", shape], name)
        return True

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        values = np.ascontiguousarray(values)
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self.made:
            self.made[key] = name
            self.tensors.append(numpy_helper.from_array(values, name=name))
        return self.made[key]

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}.made", **attributes))


def _distinct(values: NDArray[Any], size: int, *, most: int | None = None) -> dict[bytes, int]:
    """Return the distinct blocks of `size` rows and the number of the first of each; stop after `most`."""
    first: dict[bytes, int] = {}
    for number, block in enumerate(values.reshape(-1, size, values.shape[1])):
        first.setdefault(block.tobytes(), number)
        if most is not None and len(first) > most:
            break
    return first
