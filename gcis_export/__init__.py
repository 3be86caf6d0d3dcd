"""Export of a checkpoint and prompts as a verified bundle."""
