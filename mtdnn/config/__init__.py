"""The settings of an experiment, their checks, and the layout of its results."""
