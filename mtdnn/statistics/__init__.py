"""Comparisons of training methods on the same items, over seeds and clusters of items."""
