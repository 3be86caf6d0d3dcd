"""Blending and native-grid labels on NVIDIA GPUs; imported only when a CUDA device is used."""
