"""Training loop: batches, steps, validation, checkpoints and the run folder."""
