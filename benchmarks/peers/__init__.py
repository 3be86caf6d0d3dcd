"""Time and memory beside other CT segmentation software, with random weights."""
