"""Export: checkpoint + prompts in, verified bundle out."""
