"""Operating system services: files, locks, caches, processors, memory and time."""
