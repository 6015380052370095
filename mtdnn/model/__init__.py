"""Packed batches, the shared encoder with its heads, and the optimizer."""
