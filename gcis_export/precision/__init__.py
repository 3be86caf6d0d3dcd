"""A graph in another precision: strongly typed 16-bit graphs, and INT8 with explicit Q/DQ."""
