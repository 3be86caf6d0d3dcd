"""Inference engines: load a bundle's graph and compute logits of a window."""
