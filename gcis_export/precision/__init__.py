"""Conversion of a float32 graph to strongly typed 16-bit graphs and to INT8 with explicit Q/DQ operators."""
