"""Whole-case model for Triton's Python backend: a CT file in, a label file and a report out."""
