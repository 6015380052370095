"""Benchmarks: each part of the pipeline is timed against a peer, in turns."""
