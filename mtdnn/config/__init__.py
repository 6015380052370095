"""An experiment's YAML file: settings, checks, and the layout of its results."""
