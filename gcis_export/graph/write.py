"""A export_model written as ONNX: static shapes, names `image` and `margins`, the same bytes every time."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import onnx
import torch

from gcis_export.graph.network import ExportNet
from gcis_export.graph.optimize import store_half, tidy

INPUT, OUTPUT = "image", "margins"
OPSET = 20
LARGE = 1024
"""Tensors of at least so many elements are stored as float16 where 16-bit weights are asked for."""

WeightsType = Literal["fp32", "fp16"]


def round_weights(export_model: ExportNet) -> int:
    """Round the large weights of a export_model to float16 in place; they stay float32 tensors.

    Returns:
        How many tensors were rounded. One that float16 cannot hold stays as it is.
    """
    rounded = 0
    with torch.no_grad():
        for tensor in [*export_model.parameters(), *export_model.buffers()]:
            if tensor.dtype != torch.float32 or tensor.numel() < LARGE:
                continue
            half = tensor.half().float()
            if torch.isfinite(half).all():
                tensor.copy_(half)
                rounded += 1
    return rounded


def to_onnx(export_model: ExportNet) -> onnx.ModelProto:
    """Write a export_model as an ONNX model that `onnx.checker` accepts.

    Args:
        export_model: The network, in evaluation mode; it says the window and the batch.

    Returns:
        A float32 model with input `image` (batch, 1, X, Y, Z) and output `margins` (batch, prompts, X, Y, Z),
        and nothing of this machine in it.
    """
    window = torch.zeros(export_model.batch, 1, *export_model.patch_size)
    with _quiet():
        program: Any = torch.onnx.export(
            export_model.eval(),
            (window,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            optimize=False,
            verbose=False,
        )
        model = tidy(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    return model


def stored_as(model: onnx.ModelProto, weights: WeightsType) -> onnx.ModelProto:
    """Return a model with its large weights stored in a type; what it computes stays float32.

    Args:
        model: What `to_onnx` gave.
        weights: `"fp16"` halves the file without changing a number when the export_model went through
            `round_weights`; a Cast gives them back as float32.
    """
    if weights == "fp32":
        return model
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    store_half(stored, smallest=LARGE)
    onnx.checker.check_model(stored, full_check=True)
    return stored


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks on its own dependencies."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
