"""Share weights between the graphs of a bundle: a graph refers to equal bytes in `model.onnx`."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from gcis_runtime.bundles.manifest import MODEL_FILE

_SMALLEST = 1024
"""Bytes from which a tensor is shared; a reference takes about 60."""


def shared_weights(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return a copy of a graph whose tensors refer to `model.onnx` where that file contains the same bytes.

    References are ONNX external data with offsets into the file. They have no alignment: an engine that maps
    the file must copy the tensors. The runtime inserts them into the graph before an engine reads it.

    Args:
        model: A graph whose initializers are stored as raw bytes.
        folder: Staged bundle with `model.onnx`.
    """
    base = (folder / MODEL_FILE).read_bytes()
    shared = onnx.ModelProto()
    shared.CopyFrom(model)
    for tensor in shared.graph.initializer:
        place = base.find(tensor.raw_data) if len(tensor.raw_data) >= _SMALLEST else -1
        if place >= 0:
            _refer(tensor, place)
    return shared


def _refer(tensor: TensorProto, offset: int) -> None:
    """Replace the bytes of a tensor by their place in `model.onnx`."""
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", MODEL_FILE), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
