"""Many machines: executors that compute the cases of a run elsewhere, and summaries of runs in parts."""
