"""Processes that kill themselves at a chosen moment."""

import os
import signal
from collections.abc import Callable
from typing import Any


def kill_at_call(number: int, *functions: tuple[Any, str]) -> None:
    """Make this process kill itself at the n-th call of these functions, counted together.

    Args:
        number: n, from 1.
        functions: modules or classes, each with the name of a function that changes files.
    """
    left = number

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for owner, name in functions:
        setattr(owner, name, counted(getattr(owner, name)))
