"""The machine underneath: files, locks, GPUs, progress, and what made a result."""
