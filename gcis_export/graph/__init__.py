"""The exportable export_model of the static network, and its way into an ONNX file."""
