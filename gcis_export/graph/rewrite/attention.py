"""Compute the attention of all windows of a block as one product, with aligned numbers of tokens.

The float32 graph splits the windows of a shifted block into up to eight groups, one per mask. Here the masks
are part of the product instead: the queries and keys of each head get eight more channels, one per region of
the window. A query has -100 in the channel of its region; a key has 0 in the channel of its region and 1 in
the others. The product of these channels is exactly 0 within a region and -100 between regions, as in MONAI,
without a rounding error in any precision. The linear layer of the block computes these channels from eight
columns with the region of each token, so that they cost one Concat per block.

Windows of 343 tokens get one more, which no token attends to: the matrix kernels of GPUs need rows of a
multiple of 16 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from gcis_export.graph.rewrite.core import Core, find_core
from gcis_export.graph.rewrite.draft import Draft

ALIGNMENT = 8
"""The number of tokens becomes a multiple of this: 16 bytes in 16-bit types."""
IGNORED = -10000.0
"""Bias of the tokens that no token attends to; float16 holds it."""
REGIONS = 8
"""Channels that express the masks: a window has at most eight regions."""


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Operators before and after the attention of a block that move rows, as `gather_rows` writes them.

    Attributes:
        cut: Gather that cuts the windows.
        flat: Reshape of the result to rows of one head, (W * heads * N, size).
        join: Gather that joins the heads and returns the rows to their places.
        merge: Reshape of its result to (T, C).
        proj: Linear layer after the attention.
    """

    cut: NodeProto
    flat: NodeProto
    join: NodeProto
    merge: NodeProto
    proj: NodeProto

    @classmethod
    def of(cls, draft: Draft, core: Core) -> Ends | None:
        """Return the ends of an attention block, or None if its windows are not cut by a Gather."""
        cut = draft.maker(core.gemm.input[0], "Gather")
        flat = draft.reader(core.result, "Reshape")
        join = None if flat is None else draft.reader(flat.output[0], "Gather")
        merge = None if join is None else draft.reader(join.output[0], "Reshape")
        proj = None if merge is None else draft.reader(merge.output[0], "Gemm")
        if cut is None or flat is None or join is None or merge is None or proj is None:
            return None
        return cls(cut=cut, flat=flat, join=join, merge=merge, proj=proj)


def join_attention(draft: Draft) -> None:
    """Rewrite every attention block whose windows are cut by a Gather; run `gather_rows` before."""
    for split in [node for node in draft.nodes if node.op_type == "Split"]:
        core = find_core(draft, split)
        ends = None if core is None else Ends.of(draft, core)
        if core is not None and ends is not None:
            _rewrite(draft, core, ends)


def _rewrite(draft: Draft, core: Core, ends: Ends) -> None:
    name = core.result
    tokens = -(-core.tokens // ALIGNMENT) * ALIGNMENT
    size = core.size + (REGIONS if core.masked else 0)
    rows = _shape(draft, name, "windows", (core.windows, tokens, 3 * core.heads, size))
    weight, bias = _weights(core)
    new = [*_cut(draft, core, ends, tokens)]
    new += [
        helper.make_node(
            "Gemm",
            [
                new[-1].output[0],
                draft.add(f"{core.gemm.input[1]}.wide", weight),
                draft.add(f"{core.gemm.input[2]}.wide", bias),
            ],
            [f"{name}.qkv"],
            transB=1,
        ),
        helper.make_node("Reshape", [f"{name}.qkv", rows], [f"{name}.windows"]),
        helper.make_node("Transpose", [f"{name}.windows"], [f"{name}.heads"], perm=[0, 2, 1, 3]),
        helper.make_node("Split", [f"{name}.heads"], [f"{name}.{p}" for p in "qkv"], axis=1, num_outputs=3),
        helper.make_node("Transpose", [f"{name}.k"], [f"{name}.kt"], perm=[0, 1, 3, 2]),
        *_bias(draft, core, tokens),
        helper.make_node("MatMul", [f"{name}.q", f"{name}.kt"], [f"{name}.product"]),
        helper.make_node("Add", [f"{name}.product", f"{name}.bias"], [f"{name}.logits"]),
        helper.make_node("Softmax", [f"{name}.logits"], [f"{name}.shares"], axis=-1),
        helper.make_node("MatMul", [f"{name}.shares", f"{name}.v"], [f"{name}.attended"]),
        *_join(draft, core, ends, tokens),
    ]
    draft.replace(ends.proj, new)


def _cut(draft: Draft, core: Core, ends: Ends, tokens: int) -> list[NodeProto]:
    """Return the operators that cut the windows and append the region of each token."""
    name = core.result
    index = draft.constant(ends.cut.input[1])
    if index is None:
        raise ValueError(f"{ends.cut.name} has no constant index")
    more = ((0, 0), (0, tokens - core.tokens))
    wide = np.pad(index.reshape(core.windows, core.tokens), more, mode="edge").reshape(-1)
    cut = helper.make_node(
        "Gather", [ends.cut.input[0], draft.add(f"{name}.index", wide)], [f"{name}.cut"], axis=0
    )
    if not core.masked:
        return [cut]
    region = np.repeat(core.regions, core.sizes, axis=0)  # (W, N)
    codes = np.eye(REGIONS, dtype=np.float32)[np.pad(region, more, mode="edge").reshape(-1)]
    inputs = [f"{name}.cut", draft.add(f"{name}.regions", codes)]
    return [cut, helper.make_node("Concat", inputs, [f"{name}.coded"], axis=1)]


def _weights(core: Core) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weight and bias of the linear layer with the channels of the masks."""
    if not core.masked:
        return core.weight, core.bias
    channels = core.weight.shape[1]
    weight = np.zeros((3, core.heads, core.size + REGIONS, channels + REGIONS), np.float32)
    bias = np.zeros((3, core.heads, core.size + REGIONS), np.float32)
    weight[:, :, : core.size, :channels] = core.weight.reshape(3, core.heads, core.size, channels)
    bias[:, :, : core.size] = core.bias.reshape(3, core.heads, core.size)
    same = np.eye(REGIONS, dtype=np.float32)
    weight[0, :, core.size :, channels:] = core.masked * same  # query: -100 in the channel of its region
    weight[1, :, core.size :, channels:] = -same  # key: 1, but 0 in the channel of its region
    bias[1, :, core.size :] = 1.0
    return weight.reshape(-1, channels + REGIONS), bias.reshape(-1)


def _bias(draft: Draft, core: Core, tokens: int) -> list[NodeProto]:
    """Return the operator that computes the position bias (heads, tokens, tokens)."""
    name = core.result
    table, index = core.table, core.index
    if tokens > core.tokens:
        last = table.shape[1]
        table = np.pad(table, ((0, 0), (0, 1)), constant_values=IGNORED)
        index = np.full((tokens, tokens), last)
        index[: core.tokens, : core.tokens] = core.index
        index[core.tokens :, : core.tokens] = core.index[:1]  # the result of these rows is not used
    return [
        helper.make_node(
            "Gather",
            [draft.add(f"{name}.table", table), draft.add(f"{name}.pairs", index.astype(np.int32))],
            [f"{name}.bias"],
            axis=1,
        )
    ]


def _join(draft: Draft, core: Core, ends: Ends, tokens: int) -> list[NodeProto]:
    """Return the operators that join the heads, move the rows back and apply the linear layer."""
    name, size = core.result, core.size + (REGIONS if core.masked else 0)
    index, weight = draft.constant(ends.join.input[1]), draft.constant(ends.proj.input[1])
    if index is None or weight is None:
        raise ValueError(f"{ends.join.name} and {ends.proj.name} have no constant index and weight")
    place = (index // core.tokens) * tokens + index % core.tokens  # rows are (W, heads, N)
    wide = np.zeros((weight.shape[0], core.heads, size), np.float32)
    wide[:, :, : core.size] = weight.reshape(-1, core.heads, core.size)
    flat = _shape(draft, name, "flat", (-1, size))
    merged = _shape(draft, name, "merged", (index.shape[0], core.heads * size))
    proj = NodeProto()
    proj.CopyFrom(ends.proj)
    proj.input[0] = f"{name}.merged"
    proj.input[1] = draft.add(f"{ends.proj.input[1]}.wide", wide.reshape(weight.shape[0], -1))
    return [
        helper.make_node("Reshape", [f"{name}.attended", flat], [f"{name}.flat"]),
        helper.make_node(
            "Gather", [f"{name}.flat", draft.add(f"{name}.back", place)], [f"{name}.joined"], axis=0
        ),
        helper.make_node("Reshape", [f"{name}.joined", merged], [f"{name}.merged"]),
        proj,
    ]


def _shape(draft: Draft, name: str, what: str, shape: tuple[int, ...]) -> str:
    return draft.add(f"{name}.{what}.shape", np.array(shape))
