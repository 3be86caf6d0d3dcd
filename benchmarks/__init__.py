"""Benchmarks that write dated records of time, memory, size and accuracy; run from a checkout."""
