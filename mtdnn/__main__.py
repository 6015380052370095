"""The program `mtdnn`, also as `python -m mtdnn`."""

import sys


def run() -> int:
    """Run the command line and return the exit status."""
    try:
        from mtdnn.cli.main import main
    except KeyboardInterrupt:  # loading takes long enough for Ctrl-C
        print("mtdnn: interrupted", file=sys.stderr)
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(run())
