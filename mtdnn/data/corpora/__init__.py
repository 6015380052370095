"""Corpora from the Hub, the publishers' files or a generator, read into checked rows."""
