"""Evaluation: predictions, scores, reports and pictures."""
