"""What reaches a user: messages without a traceback, safe to print."""

import errno


class MtdnnError(Exception):
    """Bad input or a refused operation.

    The message is complete: it names the file, the place in it and the remedy.
    The command line prints it as one line and exits with status 2.
    """


class Busy(MtdnnError):
    """Another process is at work on the same thing; what it makes is left alone."""


def printable(text: str, longest: int = 2_000) -> str:
    """`text` for a terminal: names out of files may hold escapes or turn the line around."""
    shown = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)


def lines(error: MtdnnError, most: int = 20) -> list[str]:
    """The lines of a message for a terminal; of very many, the first."""
    every = str(error).split("\n")
    more = [f"… and {len(every) - most} more"] if len(every) > most else []
    return [printable(line) for line in every[:most] if line] + more


def reason(error: BaseException) -> str:
    """What an error says, or what it is."""
    said = disk_message(error) if isinstance(error, OSError) else str(error)
    return said or type(error).__name__


def disk_message(error: OSError) -> str:
    """One line: the file, what is wrong with it or its disk, the remedy."""
    remedy = {
        errno.ENOSPC: "; free some space and repeat the command: nothing that was kept is lost",
        errno.EDQUOT: "; free some space and repeat the command: nothing that was kept is lost",
        errno.EROFS: "; make it writable, or set `results` to another folder",
        errno.EACCES: "; make it readable and writable for you",
    }
    what = " ".join((error.strerror or str(error) or type(error).__name__).split())
    return f"{error.filename or 'a file'}: {what}{remedy.get(error.errno or 0, '')}"
