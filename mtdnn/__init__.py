"""Reproducible multi-task fine-tuning experiments, from one YAML file to every table."""

__version__ = "0.1.0"
