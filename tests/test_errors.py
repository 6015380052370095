"""Errors that users see: one printable line each, with what to do."""

import errno
import os

import pytest

from mtdnn.errors import MtdnnError, disk_message, lines, printable, reason


def test_unprintable_characters_are_escaped():
    assert printable("a\x1b[31m\u202eb\tä") == "a\\u001b[31m\\u202eb\\u0009ä"


def test_long_text_is_shortened():
    assert printable("a" * 10, 10) == "a" * 10
    assert printable("a" * 11, 10) == "a" * 9 + "…"


def test_a_message_is_limited_in_lines_and_says_how_many_more_there_are():
    error = MtdnnError("\n".join(["first", "", "third\x07", "fourth", "fifth"]))
    assert lines(error) == ["first", "third\\u0007", "fourth", "fifth"]
    assert lines(error, 3) == ["first", "third\\u0007", "… and 2 more"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("wrong"), "wrong"),
        (ValueError(), "ValueError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (OSError(errno.ENOENT, "No such file or directory", "a"), "a: No such file or directory"),
    ],
)
def test_a_reason_is_the_message_or_the_name_of_the_class(error, text):
    assert reason(error) == text


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "make it writable"),
        (errno.EACCES, "give yourself permission"),
    ],
)
def test_an_error_of_the_disk_names_the_file_and_the_remedy(number, remedy):
    error = OSError(number, os.strerror(number), "results/file")
    assert disk_message(error).startswith(f"results/file: {os.strerror(number)}; {remedy}")
    assert disk_message(OSError(number, "a\nb")).startswith(f"a file: a b; {remedy}")
