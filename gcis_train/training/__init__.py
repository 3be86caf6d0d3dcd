"""Training: objectives, steps, loop, run folder and fine-tuning."""
