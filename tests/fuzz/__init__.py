"""Fuzzing of every reader of files from outside: `python -m tests.fuzz`."""
