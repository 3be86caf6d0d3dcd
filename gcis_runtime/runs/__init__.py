"""Many images on disk: inputs, outputs, resumption, summaries and pictures."""
