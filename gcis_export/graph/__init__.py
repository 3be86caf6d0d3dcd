"""The exportable twin of the static network, and its way into an ONNX file."""
