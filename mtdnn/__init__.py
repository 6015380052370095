"""Reproducible multi-task fine-tuning experiments, from one YAML file to every table."""

__version__ = "1.0.0"
