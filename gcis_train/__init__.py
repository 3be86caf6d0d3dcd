"""Train the routed segmentation network: read a datalist, write checkpoints."""
