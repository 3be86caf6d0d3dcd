"""Comparison of one network on one volume: published evaluation, PyTorch and each engine of the runtime."""
