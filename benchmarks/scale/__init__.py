"""Cost of a run against volume, overlap, prompts, threads, images and processes, and a plan for a cohort."""
