"""What several tests need: tiny models and experiments, stand-ins, servers, a SLURM."""
