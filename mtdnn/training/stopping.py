"""Signals that stop training at the end of a step."""

import signal
from types import FrameType
from typing import Any

from mtdnn.errors import MtdnnError


class Stopped(MtdnnError):
    """A signal ended training; its state is kept.

    Attributes:
        status: exit status by the convention of shells, 128 + signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 128 + number


class StopSignals:
    """Notes SIGTERM, SIGUSR1 and SIGINT, so that training can end between two steps.

    A second Ctrl-C acts at once. A second SIGTERM does not: batch systems send several within a
    second when a job's time is over, and the checkpoint is still written.

    Attributes:
        number: the last signal; None before the first.
    """

    _WATCHED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in self._WATCHED:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = number
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])
