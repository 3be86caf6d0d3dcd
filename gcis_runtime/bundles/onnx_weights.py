"""Move weights from other files into an ONNX graph, so that an engine receives all bytes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gcis_runtime.bundles.onnx_graph import ExternalTensor
from gcis_runtime.bundles.protobuf import encoded, fields

_GRAPH, _INITIALIZER, _RAW, _PLACE, _IS_EXTERNAL = 7, 5, 9, 13, 14
"""Field numbers of the graph in a model, of the initializers in a graph, and in an initializer."""

_Parts = list[bytes | memoryview]


def with_weights(data: bytes, external: Sequence[ExternalTensor], read: Callable[[str], bytes]) -> bytes:
    """Return a graph that contains the elements of its external tensors.

    Args:
        data: A graph that `check_onnx` accepted.
        external: Result of `check_onnx`.
        read: Returns the verified content of a listed file.
    """
    wanted = {tensor.start: tensor for tensor in external}
    files = {location: read(location) for location in sorted({t.location for t in external})}

    def elements(start: int, stop: int) -> _Parts:
        tensor = wanted.get(start)
        if tensor is None:
            return [memoryview(data)[start:stop]]
        raw = memoryview(files[tensor.location])[tensor.offset : tensor.offset + tensor.size]
        return [*_copied(data, start, stop, skip=(_PLACE, _IS_EXTERNAL)), *encoded(_RAW, raw)]

    def graph(start: int, stop: int) -> _Parts:
        return _replaced(data, start, stop, number=_INITIALIZER, new=elements)

    return b"".join(_replaced(data, 0, len(data), number=_GRAPH, new=graph))


def _replaced(
    data: bytes, start: int, stop: int, *, number: int, new: Callable[[int, int], _Parts]
) -> _Parts:
    """Return a message with new values of the fields of one number."""
    parts = _copied(data, start, stop, skip=(number,))
    for found, _, first, end in fields(data, start, stop):
        if found == number:
            parts += encoded(number, *new(first, end))
    return parts


def _copied(data: bytes, start: int, stop: int, *, skip: Iterable[int]) -> _Parts:
    """Return the fields of a message except some; the order of fields of different numbers has no meaning."""
    parts: _Parts = []
    for number, _, _, end in fields(data, start, stop):
        if number not in skip:
            parts.append(memoryview(data)[start:end])
        start = end
    return parts
