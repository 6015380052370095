"""The one exception that reaches a user: a message without a traceback."""


class MtdnnError(Exception):
    """Bad input or a refused operation.

    The message is complete: it names the file, the place in it and the remedy.
    The command line prints it as one line and exits with status 2.
    """


class Busy(MtdnnError):
    """Another process is at work on the same thing; what it makes is left alone."""
