"""Progress of long work: a bar on a terminal, plain lines at intervals elsewhere; both show rate and time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

LINE_SECONDS = 10.0
RESUMABLE = "start it again to continue"  # the last words of a stage that stopped on request
_muted = False


def mute() -> None:
    """Silences this process, because another rank logs the same work."""
    global _muted
    _muted = True


def log(text: str) -> None:
    """Prints one line to standard error, unless this process is muted."""
    if not _muted:
        print(text, file=sys.stderr, flush=True)


class Progress:
    """Counts units of work up to a known total; `note` is appended to each line, e.g. the loss."""

    note = ""

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._first = done
        self._start = self._last = time.monotonic()

    @property
    def rate(self) -> float:
        """Units per second since this process started."""
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)

    def advance(self, amount: int) -> None:
        """Counts `amount` more units; logs a line every `LINE_SECONDS` and at the end."""
        self.done += amount
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS or self.done >= self.total:
            self._last = now
            log(self.line())

    def line(self) -> str:
        """The state as one line."""
        share = f"({100 * self.done / self.total:.0f} %)"
        return ", ".join([f"{self.title}: {self.done:,} of {self.total:,} {self.unit} {share}", *self.words()])

    def words(self) -> list[str]:
        """Rate, time left and note."""
        left = (self.total - self.done) / self.rate if self.rate else 0.0
        words = [f"{self.rate:,.0f} {self.unit}/s", f"{_clock(left)} left"]
        return [*words, self.note] if self.note else words


class Bar(Progress):
    """Progress as a bar on a terminal."""

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        super().__init__(title, total, unit, done)
        from rich.console import Console  # imported only on a terminal
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}  {task.fields[words]}"),
        )
        self.bar = RichProgress(*columns, console=Console(stderr=True))
        self._task = self.bar.add_task(title, total=total, completed=done, words="")

    def advance(self, amount: int) -> None:
        """Counts `amount` more units and redraws the bar."""
        self.done += amount
        self.bar.update(self._task, completed=self.done, words="  ".join(self.words()))


@contextmanager
def progress(title: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
    """A `Bar` if standard error is a terminal, otherwise a `Progress`."""
    if _muted or not sys.stderr.isatty():
        yield Progress(title, total, unit, done)
        return
    bar = Bar(title, total, unit, done)
    with bar.bar:
        yield bar


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
