"""MLflow as a mirror of the runs' files."""
