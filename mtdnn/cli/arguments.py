"""How a command is declared, and the arguments that several commands share."""

import argparse
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mtdnn.errors import MtdnnError

if TYPE_CHECKING:
    from mtdnn.config.experiment import Experiment

EVERYDAY = "everyday commands"
STEPS = "steps, as Snakemake calls them"
TOOLS = "tools"

T = TypeVar("T")
Function = Callable[[argparse.Namespace], None]


class Argument:
    """An argument of a command.

    Args:
        names: as for `argparse.ArgumentParser.add_argument`.
        variable: an environment variable whose value, if set, replaces the default.
        options: as for `add_argument`.
    """

    def __init__(self, *names: str, variable: str | None = None, **options: Any):
        self._names, self._variable, self._options = names, variable, options

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the argument to the parser of its command."""
        options = self._options
        if self._variable and self._variable in os.environ:
            options = {**options, "default": os.environ[self._variable]}
        parser.add_argument(*self._names, **options)


@dataclass(frozen=True)
class Command:
    """One sub-command of `mtdnn`.

    Attributes:
        name: what the user types.
        group: the heading under which `mtdnn --help` lists it.
        description: one line that says what it does.
        arguments: its arguments, in order.
        function: does the work.
    """

    name: str
    group: str
    description: str
    arguments: tuple[Argument, ...]
    function: Function


class Commands(list[Command]):
    """The commands of one module."""

    def add(
        self, name: str, group: str, description: str, *arguments: Argument
    ) -> Callable[[Function], Function]:
        """Declare the decorated function to be the command `name`."""

        def declare(function: Function) -> Function:
            self.append(Command(name, group, description, arguments, function))
            return function

        return declare


def positive(text: str) -> int:
    """Convert an argument to a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


EXPERIMENT = Argument("experiment", type=Path, metavar="EXPERIMENT.yaml")
RUN_DIR = Argument("run", type=Path, metavar="RUN_DIR")
THREADS = Argument("--threads", type=positive, metavar="N", help="CPU threads (default: all)")
FORCE = Argument("--force", action="store_true", help="do it again even if it is up to date")
JSON = Argument("--json", action="store_true", help="print one JSON object")


def load_experiment(arguments: argparse.Namespace) -> "Experiment":
    """Read and check the experiment that the argument `EXPERIMENT` names."""
    from mtdnn.config.loading import load

    return load(arguments.experiment)


def pick(kind: str, name: str, choices: Mapping[str, T]) -> T:
    """Return `choices[name]`.

    Raises:
        MtdnnError: the name is unknown; the message lists the known ones.
    """
    if name not in choices:
        raise MtdnnError(f"unknown {kind} {name!r}; known are {', '.join(choices)}")
    return choices[name]


def minutes(text: str) -> float:
    """Convert an argument to a finite time of at least 0."""
    number = _number(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes")
    return number


def seconds(text: str) -> float:
    """Convert an argument to a finite time greater than 0."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds greater than 0")
    return number


def threshold(text: str) -> float:
    """Convert an argument to a number; infinity accepts or refuses every answer."""
    number = _number(text)
    if math.isnan(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
