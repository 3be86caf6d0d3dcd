"""Segment many image files: inputs, outputs, resumption, summaries and pictures."""
