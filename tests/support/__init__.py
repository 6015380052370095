"""Shared by several tests: tiny models and experiments, stand-ins, servers, a SLURM."""
