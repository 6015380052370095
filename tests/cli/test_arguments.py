"""Declared commands and arguments, and the values that arguments accept."""

import argparse
import math

import pytest

from mtdnn.cli.arguments import Argument, Commands, minutes, pick, positive, seconds, threshold
from mtdnn.cli.main import main
from mtdnn.errors import MtdnnError


def test_a_declared_function_stays_a_function():
    commands = Commands()

    @commands.add("greet", "a group", "say hello", Argument("name"))
    def greet(arguments: argparse.Namespace) -> None:
        assert arguments.name == "you"

    (command,) = commands
    assert command.function is greet and command.name == "greet"
    parser = argparse.ArgumentParser()
    for argument in command.arguments:
        argument.add_to(parser)
    greet(parser.parse_args(["you"]))


@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [([], None, 10.0), ([], "5", 5.0), (["--pause", "3"], "5", 3.0)],
)
def test_an_environment_variable_replaces_the_default(monkeypatch, given, variable, expected):
    argument = Argument("--pause", type=minutes, variable="PAUSE_MINUTES", default="10")
    monkeypatch.delenv("PAUSE_MINUTES", raising=False)
    if variable:
        monkeypatch.setenv("PAUSE_MINUTES", variable)
    parser = argparse.ArgumentParser()
    argument.add_to(parser)
    assert parser.parse_args(given).pause == expected


def test_pick_names_the_known_ones():
    assert pick("table", "b", {"a": 1, "b": 2}) == 2
    with pytest.raises(MtdnnError, match="unknown table 'c'; known are a, b"):
        pick("table", "c", {"a": 1, "b": 2})


def test_positive():
    assert positive("12") == 12
    for text in ("0", "-1", "1.5", "many", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="not a whole number of at least 1"):
            positive(text)


def test_minutes():
    assert (minutes("0"), minutes("2.5")) == (0.0, 2.5)
    for text in ("-1", "inf", "nan", "soon"):
        with pytest.raises(argparse.ArgumentTypeError, match="not a number of minutes"):
            minutes(text)


def test_seconds():
    assert seconds("0.5") == 0.5
    for text in ("0", "-1", "inf", "nan", "soon"):
        with pytest.raises(argparse.ArgumentTypeError, match="not a number of seconds greater"):
            seconds(text)


@pytest.mark.parametrize(
    "command", [["train", "run", "--threads", "-1"], ["sync", "x.yaml", "--every", "nan"]]
)
def test_a_number_that_makes_no_sense_is_refused_before_anything_starts(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert f"{command[-1]}' is not a " in capsys.readouterr().err


def test_threshold():
    assert (threshold("-1.5"), threshold("inf")) == (-1.5, math.inf)
    for text in ("nan", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a number"):
            threshold(text)
