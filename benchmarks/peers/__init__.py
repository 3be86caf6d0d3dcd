"""Time and memory compared with other CT segmentation software, with random weights."""
