"""NVIDIA GPUs without PyTorch: the driver asked first, memory and streams, our kernels, blending on the GPU.

Nothing here is imported before a CUDA device is asked for; `probe` alone needs no package beside Python.
"""
