"""Segment CT files in Triton's Python backend: the content of a file in, a label file and a JSON report out.

Research software, not a medical device. Triton executes this file. Its Python needs gCIS.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from gcis_runtime.errors import EngineError, GcisError, MemoryLimitError
from gcis_runtime.fleet.file_bytes import segment_bytes
from gcis_runtime.pipeline.segmenter import Segmenter

BUNDLE = "bundle.gcis"
_NUMPY_1 = np.lib.NumpyVersion(np.__version__).major < 2


class _CancelledError(Exception):
    """The client has cancelled its request, or its deadline has passed."""


class TritonPythonModel:
    """A bundle in an engine. Triton calls the methods of one instance one after another."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle, and check that tensors arrive as they were sent."""
        _check_tensors()
        config = json.loads(args["model_config"])
        given = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        device = "cpu"
        if args["model_instance_kind"] == "GPU":
            device = f"cuda:{args['model_instance_device_id']}"
        threads = given.get("gcis_threads", "")
        self.segmenter = Segmenter.open(
            Path(args["model_repository"]) / args["model_version"] / BUNDLE,
            device=device,
            engine=given.get("gcis_engine", "auto"),
            precision=given.get("gcis_precision", "auto"),
            threads=int(threads) if threads else None,
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Segment the image of each request; an error concerns its request alone."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        def progress(_finished: int, _total: int) -> None:
            if request.is_cancelled():
                raise _CancelledError

        kinds = pb_utils.TritonError
        try:
            content = _array(pb_utils.get_input_tensor_by_name(request, "image")).tobytes()
            labels, report = segment_bytes(self.segmenter, content, progress=progress)
        except _CancelledError:
            return _failed("cancelled by the client", kinds.CANCELLED)
        except (EngineError, MemoryLimitError, MemoryError) as error:
            return _failed(str(error) or "not enough memory", kinds.UNAVAILABLE)
        except GcisError as error:
            return _failed(str(error), kinds.INVALID_ARG)
        except Exception as error:
            return _failed(f"{type(error).__name__}: {error}", kinds.INTERNAL)
        return pb_utils.InferenceResponse([_tensor("labels", labels), _tensor("report", report)])

    def finalize(self) -> None:
        """Free the engine."""
        self.segmenter.close()


def _array(tensor: Any) -> NDArray[np.uint8]:
    """Return the content of a tensor. With NumPy 2, `as_numpy` of older backends repeats the first byte."""
    if _NUMPY_1:
        return np.asarray(tensor.as_numpy(), dtype=np.uint8)
    content: NDArray[np.uint8] = np.from_dlpack(tensor).astype(np.uint8, copy=False)
    return content


def _tensor(name: str, content: bytes) -> Any:
    """Return a tensor of bytes; see `_array`. NumPy 1 frees what it passed on by DLPack twice."""
    array = np.frombuffer(content, dtype=np.uint8).copy()  # DLPack passes on only arrays that may be written
    return pb_utils.Tensor(name, array) if _NUMPY_1 else pb_utils.Tensor.from_dlpack(name, array)


def _check_tensors() -> None:
    """Raise an error unless bytes survive the way through a tensor.

    Raises:
        TritonModelException: NumPy and this version of the backend do not work together.
    """
    sent = bytes(range(256))
    found = _array(_tensor("check", sent)).tobytes()
    if found != sent:
        raise pb_utils.TritonModelException(
            f"tensors of this backend are damaged with NumPy {np.__version__}: use the NumPy of the server"
        )


def _failed(message: str, kind: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, kind))
