"""Progress in a log: an occasional line, with what is done, the speed and the time left."""

import pytest

from mtdnn.machine import progress
from mtdnn.machine.progress import Progress, say, track


@pytest.fixture
def clock(monkeypatch):
    """A clock that does not move until it is set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_lines_are_seconds_apart_and_the_last_says_how_long_it_took(clock, capsys):
    with Progress("training", 100, "steps") as shown:
        for _ in range(50):
            clock(1)
            shown.advance(2, note="loss 1.5")
    assert lines(capsys) == [
        "training: 40/100 steps · 2.00/s · 0.5 min left · loss 1.5",
        "training: 80/100 steps · 2.00/s · 0.2 min left · loss 1.5",
        "training: 100/100 steps · 2.00/s · 50 s · loss 1.5",
    ]


def test_units_of_an_earlier_process_count_as_done_but_not_as_fast(clock, capsys):
    with Progress("training", 100, "steps", done=60) as shown:
        clock(20)
        shown.advance(20)
    assert lines(capsys)[0] == "training: 80/100 steps · 1.00/s · 0.3 min left"


def test_nothing_is_shown_by_others_or_before_anything_is_done(clock, capsys):
    with Progress("training", 100, "steps", shown=False) as shown:
        clock(60)
        shown.advance(50)
    with Progress("training", 100, "steps", done=100):
        clock(60)
    assert lines(capsys) == []


def test_a_failure_shows_how_far_the_work_got(clock, capsys):
    with pytest.raises(RuntimeError), Progress("training", 100, "steps") as shown:
        clock(5)
        shown.advance(10)
        raise RuntimeError
    assert lines(capsys) == ["training: 10/100 steps · 2.00/s · 0.8 min left"]


def test_a_bar_is_drawn_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with Progress("training", 10, "steps") as shown:
        shown.advance(10, note="loss 1.5")
    assert "training: 100%" in capsys.readouterr().err


def test_items_are_passed_on_in_order(clock, capsys):
    assert list(track(iter("abc"), "reading", 3, "letters")) == ["a", "b", "c"]
    assert lines(capsys)[-1].startswith("reading: 3/3 letters")


def test_a_message_starts_with_the_name_of_the_program(capsys):
    say("corpus squad: fetched")
    assert lines(capsys) == ["mtdnn: corpus squad: fetched"]
