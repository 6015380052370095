"""What reaches a user: messages without a traceback, safe to print."""


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
