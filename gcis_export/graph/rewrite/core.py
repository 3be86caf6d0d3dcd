"""Find the attention blocks of the exported graph: weights, position bias, masks and groups of windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from gcis_export.graph.rewrite.draft import Draft


@dataclass(frozen=True, kw_only=True, eq=False)
class Core:
    """Attention of a block.

    Attributes:
        gemm: Linear layer that computes queries, keys and values of the windows.
        result: Name of the result, (windows, heads, tokens, size).
        windows: Windows of a batch, ordered by mask.
        tokens: Tokens per window.
        heads: Attention heads.
        size: Channels per head.
        weight: Weight of the linear layer, (3 * heads * size, channels).
        bias: Bias of the linear layer.
        table: Position bias, (heads, rows).
        index: Row of the table per pair of tokens, (tokens, tokens).
        masked: Value added between tokens of different regions; 0 in unshifted blocks.
        regions: Region of each token per mask, (masks, tokens).
        sizes: Number of windows per mask.
    """

    gemm: NodeProto
    result: str
    windows: int
    tokens: int
    heads: int
    size: int
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    table: NDArray[np.float32]
    index: NDArray[np.int64]
    masked: float
    regions: NDArray[np.int64]
    sizes: NDArray[np.int64]


def find_core(draft: Draft, split: NodeProto) -> Core | None:
    """Return the attention whose queries, keys and values a Split separates, or None if there is none."""
    if len(split.output) != 3:
        return None
    heads = draft.maker(split.input[0], "Transpose")
    windows = None if heads is None else draft.maker(heads.input[0], "Reshape")
    gemm = None if windows is None else draft.maker(windows.input[0], "Gemm")
    shape = None if windows is None else draft.constant(windows.input[1])
    found = _product(draft, split)
    if gemm is None or shape is None or found is None or len(gemm.input) != 3:
        return None
    result, bias, sizes = found
    gather, where = _bias(draft, bias)
    weight, offset = draft.constant(gemm.input[1]), draft.constant(gemm.input[2])
    table = None if gather is None else draft.constant(gather.input[0])
    index = None if gather is None else _index(draft, gather.input[1])
    if weight is None or offset is None or table is None or index is None:
        return None
    count, tokens, triple, size = (int(n) for n in shape)
    masked, regions = 0.0, np.zeros((1, tokens), np.int64)
    if where is not None:
        mask = _mask(draft, where)
        if mask is None:
            return None
        masked, regions = mask
        sizes = np.full(len(regions), count // len(regions)) if sizes is None else sizes
    return Core(
        gemm=gemm,
        result=result,
        windows=count,
        tokens=tokens,
        heads=triple // 3,
        size=size,
        weight=weight,
        bias=offset,
        table=table,
        index=index,
        masked=masked,
        regions=regions,
        sizes=np.array([count]) if sizes is None else sizes,
    )


def _product(draft: Draft, split: NodeProto) -> tuple[str, str, NDArray[Any] | None] | None:
    """Return the names of result and bias, and the sizes of the groups (None without groups)."""
    query, sizes = split.output[0], None
    groups = draft.reader(query, "Split")
    if groups is not None:
        query, sizes = groups.output[0], draft.constant(groups.input[1])
    product = draft.reader(query, "MatMul")
    total = None if product is None else draft.reader(product.output[0], "Add")
    softmax = None if total is None else draft.reader(total.output[0], "Softmax")
    attended = None if softmax is None else draft.reader(softmax.output[0], "MatMul")
    if product is None or total is None or attended is None:
        return None
    bias = next(name for name in total.input if name != product.output[0])
    if groups is None:
        return attended.output[0], bias, None
    joined, parts = draft.reader(attended.output[0], "Concat"), draft.maker(bias, "Split")
    if joined is None or parts is None or sizes is None:
        return None
    return joined.output[0], parts.input[0], sizes


def _bias(draft: Draft, name: str) -> tuple[NodeProto | None, NodeProto | None]:
    """Return the Gather of the position bias and the Where of the masks; None if there is none."""
    total = draft.maker(name, "Add")
    if total is None:
        return draft.maker(name, "Gather"), None
    return draft.maker(total.input[0], "Gather"), draft.maker(total.input[1], "Where")


def _index(draft: Draft, name: str) -> NDArray[np.int64] | None:
    """Return a constant index, stored or computed as the difference of two vectors."""
    stored, difference = draft.constant(name), draft.maker(name, "Sub")
    if stored is not None or difference is None:
        return stored
    rows, columns = (draft.constant(n) for n in difference.input)
    return None if rows is None or columns is None else rows - columns


def _mask(draft: Draft, where: NodeProto) -> tuple[float, NDArray[np.int64]] | None:
    """Return the value between regions, and the region of each token per mask."""
    equal, value = draft.maker(where.input[0], "Equal"), draft.constant(where.input[2])
    rows = None if equal is None else draft.constant(equal.input[0])
    if rows is None or value is None or rows.max() > 7:
        return None
    return float(value.reshape(-1)[0]), rows[:, 0, :, 0].astype(np.int64)
