"""Copy the settings that determine the labels into the metadata of a graph, so that it describes itself."""

from __future__ import annotations

from typing import Final

import msgspec
import onnx

from gcis_export.bundle.draft import Content
from gcis_export.bundle.writer import NOTICE

CONTRACT_VERSION: Final = "1"
"""Version of the keys and of the meaning of their values."""
PREFIX: Final = "gcis."


def contract(content: Content) -> dict[str, str]:
    """Return the metadata of a graph: values of the manifest as JSON without spaces, by key.

    Args:
        content: Content of the bundle.
    """
    settings = content.settings
    fields = {"preprocess": settings.preprocess, "window": settings.window, "labels": content.labels}
    texts = {name: msgspec.json.encode(value).decode() for name, value in fields.items()}
    return {
        PREFIX + name: text
        for name, text in {"contract": CONTRACT_VERSION, "notice": NOTICE, **texts}.items()
    }


def described(model: onnx.ModelProto, content: Content) -> onnx.ModelProto:
    """Return a model with the settings of its bundle in `metadata_props`, in place of other metadata.

    Args:
        model: An ONNX model; not modified.
        content: Content of the bundle.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.metadata_props[:]
    onnx.helper.set_model_props(out, contract(content))
    return out
