"""Paired comparisons of training methods over seeds, paragraphs and questions."""
