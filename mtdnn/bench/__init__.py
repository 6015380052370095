"""Benchmarks: each part of the pipeline against a peer, in turns."""
