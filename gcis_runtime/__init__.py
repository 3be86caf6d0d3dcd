"""Lean CT segmentation at deployment: bundle + CT file in, label map out; no PyTorch, MONAI or CLIP."""
