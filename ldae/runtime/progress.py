"""Progress of long work with rate and time left: a line that is redrawn on a terminal, and repeated elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

LINE_SECONDS = 10.0
REDRAW_SECONDS = 0.2  # on a terminal
CLEAR = "\r\x1b[K"  # a terminal's current line
RESUMABLE = "start it again to continue"  # the last words of a stage that stopped on request
DIVERGED = "training has diverged"  # in the message of one whose loss is not finite
_muted = False


def mute() -> None:
    """Silences this process, because another rank logs the same work."""
    global _muted
    _muted = True


def log(text: str, *, end: str = "\n") -> None:
    """Prints one line to standard error, unless this process is muted; on a terminal it replaces one without an end."""
    if not _muted:
        print((CLEAR if sys.stderr.isatty() else "") + text, file=sys.stderr, flush=True, end=end)


class Progress:
    """Counts units of work up to a known total; `note` is appended to each line, e.g. the loss."""

    note = ""

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._first = done
        self._start = self._last = time.monotonic()
        self._redraws = sys.stderr.isatty()

    def advance(self, amount: int) -> None:
        """Counts `amount` more units; logs a line at intervals and at the end."""
        self.done += amount
        now, ends = time.monotonic(), self.done >= self.total
        if ends or now - self._last >= (REDRAW_SECONDS if self._redraws else LINE_SECONDS):
            self._last = now
            if self._redraws and not ends:
                log(self.line()[: shutil.get_terminal_size().columns - 1], end="")
            else:
                log(self.line())

    def line(self) -> str:
        """The state as one line: what is done, rate, time left and note."""
        rate = (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        done = f"{self.title}: {self.done:,} of {self.total:,} {self.unit} ({100 * self.done / self.total:.0f} %)"
        words = [done, f"{rate:,.0f} {self.unit}/s", f"{_clock(left)} left", self.note]
        return ", ".join(filter(None, words))


@contextmanager
def progress(title: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
    """Yields a `Progress`; on a terminal, an error message gets a line of its own."""
    bar = Progress(title, total, unit, done)
    try:
        yield bar
    finally:
        if sys.stderr.isatty() and bar.done < bar.total:
            log(bar.line())


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
