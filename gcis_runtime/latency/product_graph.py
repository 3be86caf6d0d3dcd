"""Encode the ONNX graph of a matrix product without the onnx package.

ONNX files are protocol buffers: a field is a key (number and wire type), and a number or a length with bytes.
Field numbers are those of `onnx.proto`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_FLOAT, _INT8 = 1, 3
"""`TensorProto.DataType`."""
_IR_VERSION, _OPSET = 10, 20


def product_graph(size: int, *, eight_bit: bool) -> bytes:
    """Return `y = x @ w` as an ONNX model with a constant `w`; x, w and y are (size, size).

    Args:
        size: Rows and columns.
        eight_bit: Quantise both operands to 8 bits (QuantizeLinear and DequantizeLinear around them).
    """
    rng = np.random.default_rng(0)
    if eight_bit:
        nodes = [
            _node("QuantizeLinear", ("x", "scale", "zero"), "q"),
            _node("DequantizeLinear", ("q", "scale", "zero"), "d"),
            _node("DequantizeLinear", ("w", "weight_scale", "zero"), "v"),
            _node("MatMul", ("d", "v"), "y"),
        ]
        constants = [
            _tensor("w", rng.integers(-127, 128, (size, size), dtype=np.int8), _INT8),
            _tensor("scale", np.array(2 / 127, np.float32), _FLOAT),
            _tensor("weight_scale", np.array(2 / 127, np.float32), _FLOAT),
            _tensor("zero", np.array(0, np.int8), _INT8),
        ]
    else:
        nodes = [_node("MatMul", ("x", "w"), "y")]
        constants = [_tensor("w", rng.standard_normal((size, size), dtype=np.float32), _FLOAT)]
    graph = b"".join(
        [
            *(_bytes(1, node) for node in nodes),
            _text(2, "product"),
            *(_bytes(5, constant) for constant in constants),
            _bytes(11, _value("x", size)),
            _bytes(12, _value("y", size)),
        ]
    )
    opset = _text(1, "") + _number(2, _OPSET)
    return _number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, opset)


def _node(operator: str, inputs: Sequence[str], output: str) -> bytes:
    return b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, operator)


def _tensor(name: str, values: NDArray[np.generic], kind: int) -> bytes:
    shape = b"".join(_number(1, n) for n in values.shape)
    return shape + _number(2, kind) + _text(8, name) + _bytes(9, values.tobytes())


def _value(name: str, size: int) -> bytes:
    """Return a float32 input or output, (size, size)."""
    shape = 2 * _bytes(1, _number(1, size))
    tensor = _number(1, _FLOAT) + _bytes(2, shape)
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Return an unsigned integer as 7 bits per byte, least significant first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
