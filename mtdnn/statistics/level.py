"""The level of all intervals and tests, for those that compute and those that show them."""

CONFIDENCE = 0.95
"""Confidence of every interval."""

LEVEL = 1 - CONFIDENCE
"""Level of every test."""

RESAMPLES = 10_000
"""Maximum number of resamples of a permutation test."""
