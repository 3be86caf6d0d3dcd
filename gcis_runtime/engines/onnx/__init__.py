"""ONNX Runtime sessions on the CPU and on NVIDIA GPUs."""
