"""The export model, which computes the same as the static network, and its conversion to ONNX."""
