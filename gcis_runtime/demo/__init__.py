"""The demo bundle and the procedural head-and-neck phantom."""
