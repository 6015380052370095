"""The machine's files, locks, GPUs and progress, and the provenance of results."""
