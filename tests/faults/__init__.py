"""Random sequences of commands and faults over one tiny experiment."""
