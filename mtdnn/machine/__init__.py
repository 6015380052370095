"""What the machine provides: files, locks, GPUs, progress; and the provenance of results."""
