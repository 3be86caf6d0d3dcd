"""Weights: checkpoints, foreign formats and initialisation."""
