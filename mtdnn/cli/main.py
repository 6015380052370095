"""`mtdnn`: parses the command line, calls the command, and turns errors into one line.

Each command is in the module of its group, next to its arguments. Heavy libraries are
imported inside the functions that need them, so that `mtdnn --help` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence

from mtdnn import __version__
from mtdnn.cli import bench, experiment, models, results, steps, tracking
from mtdnn.cli.arguments import EVERYDAY, STEPS, TOOLS, Command
from mtdnn.errors import MtdnnError, disk_message, lines, printable

COMMANDS: list[Command] = [
    command
    for module in (experiment, models, steps, results, tracking, bench)
    for command in module.commands
]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    Bad input and a full disk give one line on stderr and status 2, never a traceback.
    """
    arguments = command_parser().parse_args(argv)
    try:
        arguments.function(arguments)
    except MtdnnError as error:
        for line in lines(error):
            _say(f"error: {line}")
        status: int = getattr(error, "status", 2)  # 128 + signal, if a signal stopped training
        return status
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        _say(f"error: {printable(disk_message(error))}")
        return 2
    except MemoryError:
        _say("error: out of memory; close other programs, or use a larger machine")
        return 2
    return 0


def _say(message: str) -> None:
    print(f"mtdnn: {message}", file=sys.stderr)


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="mtdnn",
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description="Reproducible multi-task fine-tuning experiments.",
        epilog="\n".join(_listing()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    # argparse lists sub-commands in one block; the epilog lists them in groups instead.
    commands = parser.add_subparsers(
        prog="mtdnn", metavar="COMMAND", required=True, help=argparse.SUPPRESS
    )
    for command in COMMANDS:
        sub = commands.add_parser(command.name, description=command.description)
        sub.set_defaults(function=command.function)
        for argument in command.arguments:
            argument.add_to(sub)
    return parser


def _listing() -> Iterator[str]:
    """The lines of `mtdnn --help` that list the commands."""
    width = max(len(command.name) for command in COMMANDS)
    for group in (EVERYDAY, STEPS, TOOLS):
        yield f"{group}:"
        for command in COMMANDS:
            if command.group == group:
                yield f"  {command.name:{width}}  {command.description}"
        yield ""
    yield "`mtdnn COMMAND --help` explains a command and its arguments."


if __name__ == "__main__":
    sys.exit(main())
