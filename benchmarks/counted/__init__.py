"""Counts of windows, operators, FLOPs, bytes and instructions, compared with the last record."""
