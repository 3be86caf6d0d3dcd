"""Rewrites of the exported float32 graph that reduce operators and moved bytes of the 16-bit graphs."""
