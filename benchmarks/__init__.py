"""Benchmarks: dated records of time, memory and accuracy."""
