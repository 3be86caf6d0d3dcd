"""Provide the demo bundle and the procedural head-and-neck phantom."""
