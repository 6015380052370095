"""Progress of long work: a bar on a terminal, an occasional line in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LINE_INTERVAL_SECONDS = 20.0


class Progress:
    """Count and show `total` units of work; use it as a context manager.

    Args:
        title: what is being done.
        total: number of units.
        unit: name of the units, in the plural.
        done: units that were finished earlier.
        shown: false if another process shows the progress.
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0, shown: bool = True):
        self._shown = shown
        self._title, self._total, self._unit = title, total, unit
        self._first = self._done = done
        self._note = ""
        self._start = self._last = time.monotonic()
        self._bar = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm(
                total=total, desc=title, unit=f" {unit}", initial=done, dynamic_ncols=True
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.close()
        elif self._done > self._first:
            self._line()

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Count finished units; a `note` is shown after the count from now on."""
        self._done += units
        self._note = self._note if note is None else note
        if self._bar:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(units)
        elif time.monotonic() - self._last >= LINE_INTERVAL_SECONDS:
            self._line()

    def _line(self) -> None:
        if not self._shown:
            return
        now = time.monotonic()
        self._last = now
        rate = (self._done - self._first) / max(now - self._start, 1e-9)
        left = (self._total - self._done) / rate
        parts = [
            f"{self._title}: {self._done}/{self._total} {self._unit}",
            f"{rate:.2f}/s" if rate < 100 else f"{rate:.0f}/s",
            f"{left / 60:.1f} min left"
            if self._done < self._total
            else f"{now - self._start:.0f} s",
            self._note,
        ]
        print(" · ".join(part for part in parts if part), file=sys.stderr, flush=True)


def track(items: Iterable[T], title: str, total: int, unit: str) -> Iterator[T]:
    """Yield `items` and show how many have been processed."""
    with Progress(title, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()


def say(line: str) -> None:
    """Print a line of progress to standard error."""
    print(f"mtdnn: {line}", file=sys.stderr, flush=True)
