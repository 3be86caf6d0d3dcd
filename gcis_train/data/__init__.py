"""Training data: datalists, pre-processed cases and training windows."""
