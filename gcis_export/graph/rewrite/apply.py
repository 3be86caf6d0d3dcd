"""Apply the rewrites of the 16-bit graphs in order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import onnx

from gcis_export.graph.rewrite.attention import join_attention
from gcis_export.graph.rewrite.draft import Draft
from gcis_export.graph.rewrite.residual import add_residual
from gcis_export.graph.rewrite.rows import gather_rows
from gcis_export.graph.rewrite.upmerge import merge_up

Rewrite = Callable[[Draft], None]

REWRITES: tuple[Rewrite, ...] = (
    gather_rows,
    join_attention,
    add_residual,
    merge_up,
)
"""Rewrites in their order: `join_attention` reads the Gathers that `gather_rows` writes."""

SPARING: tuple[Rewrite, ...] = (
    gather_rows,
    join_attention,
    functools.partial(add_residual, sparing=True),
    functools.partial(merge_up, sparing=True),
)
"""The same for graphs that share weights with `model.onnx`: large weights of small layers are not changed."""


def rewritten(model: onnx.ModelProto, rewrites: Sequence[Rewrite] = REWRITES) -> onnx.ModelProto:
    """Return a graph with fewer operators and moved bytes that computes the same up to float32 rounding.

    Args:
        model: Float32 graph written by `gcis_export.graph.write.to_onnx`; it is not changed. Operators that
            match no pattern are kept.
        rewrites: Rewrites to apply, in their order.
    """
    draft = Draft(model)
    for rewrite in rewrites:
        rewrite(draft)
    return draft.finished()
