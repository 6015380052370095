"""Tries a foreign tokenizer in a process of its own before anything depends on it.

A `tokenizer.json` may hold expressions that take for ever, rules that multiply every character, or
parts that make the library abort: all of them end that process and not this one.
"""

import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from mtdnn.errors import MtdnnError, first_line, printable

# The largest in use have some 20 MiB.
MAX_BYTES = 256 << 20
MAX_SECONDS = 60
MAX_MEMORY_BYTES = 16 << 30
# Long words make careless expressions slow; several scripts reach most rules.
SAMPLE = f"Is it {'a' * 64}! 1803, the «Straße»\t{'9' * 64}? 東京 \U0001f600 {'ab' * 64}$"


def try_tokenizer(path: Path, called: str) -> None:
    """Check that a tokenizer loads and turns some text into tokens, within limits.

    Args:
        path: its `tokenizer.json`.
        called: what it belongs to, for messages.

    Raises:
        MtdnnError: it is too large, too slow, or fails.
    """
    if path.stat().st_size > MAX_BYTES:
        raise MtdnnError(f"{called}: no usable tokenizer: larger than {MAX_BYTES} bytes")
    command = [sys.executable, "-m", __name__, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAX_SECONDS)
    except subprocess.TimeoutExpired:
        reason = f"needs more than {MAX_SECONDS} s for a line of text"
    else:
        if done.returncode == 0:
            return
        lines = done.stdout.splitlines() or ["its process crashed, or ran out of memory"]
        reason = printable(lines[-1], 300)
    raise MtdnnError(f"{called}: no usable tokenizer: {reason}")


def _main(path: str) -> None:
    from tokenizers import Tokenizer

    with suppress(ValueError, OSError):  # a lower limit is in force
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    try:
        tokenizer = Tokenizer.from_file(path)
        tokenizer.encode(SAMPLE, SAMPLE)
    except BaseException as error:  # a panic of the library is no `Exception`
        print(first_line(error))
        sys.exit(1)


if __name__ == "__main__":
    _main(sys.argv[1])
