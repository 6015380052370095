"""Errors that users see: messages without a traceback, safe to print."""

import errno
import os

_FULL = (errno.ENOSPC, errno.EDQUOT)


class MtdnnError(Exception):
    """Bad input or a refused operation.

    The message is complete: it names the file, the place in it, what is wrong and what to do.
    The command line prints it as one line and exits with status 2.
    """


class Busy(MtdnnError):
    """Another process is working on the same thing, which is left alone."""


def printable(text: str, limit: int = 2_000) -> str:
    """Return `text`, shortened to `limit` characters, with unprintable ones escaped.

    Names that come from files may contain terminal escapes or reverse the direction of the line.
    """
    shown = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)


def lines(error: MtdnnError, limit: int = 20) -> list[str]:
    """Return the first `limit` lines of a message, printable, and how many more there are."""
    every = str(error).split("\n")
    more = [f"… and {len(every) - limit} more"] if len(every) > limit else []
    return [printable(line) for line in every[:limit] if line] + more


def reason(error: BaseException) -> str:
    """Return an error's message, or the name of its class if it has none."""
    message = disk_message(error) if isinstance(error, OSError) else str(error)
    return message or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def disk_is_full(message: str) -> bool:
    """Return whether a message, perhaps of another program, says that a disk or a quota is full."""
    return any(os.strerror(code) in message for code in _FULL)


def disk_message(error: OSError) -> str:
    """Return one line: the file, what is wrong with it or with its disk, and what to do."""
    remedy = {
        **dict.fromkeys(_FULL, "; free some space and repeat the command: finished work is kept"),
        errno.EROFS: "; make it writable, or set `results` to another folder",
        errno.EACCES: "; give yourself permission to read and write it",
    }
    problem = " ".join((error.strerror or str(error) or type(error).__name__).split())
    return f"{error.filename or 'a file'}: {problem}{remedy.get(error.errno or 0, '')}"
