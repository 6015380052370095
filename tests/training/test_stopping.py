"""Signals stop training between two steps."""

import os
import signal

import pytest

from mtdnn.training.stopping import StopSignals


def test_repeated_signals_are_noted_and_a_second_interrupt_acts():
    with StopSignals() as stop:
        for _ in range(3):  # as SLURM does when a job's time is over
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
