"""Training: pretraining, warm start, fine-tuning, and their common loop, losses and run folder."""
