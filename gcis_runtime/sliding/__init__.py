"""Sliding-window inference: from a preprocessed image to labels on its native grid."""
