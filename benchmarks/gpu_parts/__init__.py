"""Sections of `benchmarks/gpu.py` and the parts that they share."""
