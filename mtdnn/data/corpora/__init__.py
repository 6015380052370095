"""Corpora from the Hub, from publishers' files or from the generator, as checked rows."""
