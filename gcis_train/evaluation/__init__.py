"""Evaluate segmentations: predictions, scores, reports and pictures."""
