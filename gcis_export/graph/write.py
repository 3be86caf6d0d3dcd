"""Write the export model as ONNX with static shapes, fixed names and reproducible bytes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch

from gcis_export.graph.network import ExportNet
from gcis_export.graph.optimize import optimize, store_half
from gcis_export.options import WeightsType

INPUT, OUTPUT = "image", "margins"
OPSET = 20
LARGE = 1024
"""Minimum number of elements of the tensors that 16-bit weights are stored for."""


def round_weights(export_model: ExportNet) -> int:
    """Round the large weights of an export model to float16 values in place; they stay float32 tensors.

    Returns:
        Number of rounded tensors. Tensors that exceed the range of float16 are not changed.
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
    """Convert an export model to an ONNX model that passes `onnx.checker`.

    Args:
        export_model: Export model in evaluation mode; it defines window size and batch size.

    Returns:
        A float32 model with input `image` (batch, 1, X, Y, Z) and output `margins` (batch, prompts, X, Y, Z),
        the logits; it contains no paths or names of this machine.
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
        model = optimize(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    return model


def stored_as(model: onnx.ModelProto, weights: WeightsType) -> onnx.ModelProto:
    """Return a model whose large weights are stored in a type; it still computes in float32.

    Args:
        model: Model returned by `to_onnx`.
        weights: Storage type. `"fp16"` halves the file size and restores float32 with a Cast; this does not
            change the results if the export model was rounded by `round_weights`.
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
    """Suppress log messages and warnings of the exporter about its own dependencies."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
