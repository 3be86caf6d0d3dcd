"""The parts of `benchmarks/gpu.py`: what it measures, and what stands in for packages that are missing."""
