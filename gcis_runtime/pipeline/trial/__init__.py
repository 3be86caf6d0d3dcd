"""Measure settings of ONNX Runtime on a GPU of this machine in separate processes, and choose the fastest."""
