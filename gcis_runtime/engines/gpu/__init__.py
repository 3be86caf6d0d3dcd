"""Access NVIDIA GPUs without PyTorch: driver probe, memory, streams and buffers."""
