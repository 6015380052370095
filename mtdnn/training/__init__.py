"""The training of one run: its schedule, its steps, checkpoints and logs."""
