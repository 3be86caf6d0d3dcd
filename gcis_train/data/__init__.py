"""Read and check datalists, pre-process cases, and draw training windows."""
