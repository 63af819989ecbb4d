"""Progress of long work: a bar with rate and time left on a terminal, plain lines at intervals anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

LINE_SECONDS = 10.0
GOES_ON = "started again, it goes on there"  # how the last line of a stage ends that was asked to stop
_speaks = True


def be_quiet() -> None:
    """Leaves all words to another process, which does the same work."""
    global _speaks
    _speaks = False


def log(text: str) -> None:
    """One plain line for a person to read, at once."""
    if _speaks:
        print(text, file=sys.stderr, flush=True)


class Progress:
    """Counts what has been done of a known total; `note` rides along, e.g. the loss."""

    note = ""

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._first = done
        self._start = self._last = time.monotonic()

    @property
    def rate(self) -> float:
        """Units a second since the start of this process's part."""
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)

    def advance(self, amount: int) -> None:
        """Records `amount` more, and writes a line when the last one is old enough or all is done."""
        self.done += amount
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS or self.done >= self.total:
            self._last = now
            log(self.line())

    def line(self) -> str:
        """The state in words."""
        share = f"({100 * self.done / self.total:.0f} %)"
        return ", ".join([f"{self.title}: {self.done:,} of {self.total:,} {self.unit} {share}", *self.words()])

    def words(self) -> list[str]:
        """The rate, the time left, and the note."""
        left = (self.total - self.done) / self.rate if self.rate else 0.0
        words = [f"{self.rate:,.0f} {self.unit}/s", f"{_clock(left)} left"]
        return [*words, self.note] if self.note else words


class Bar(Progress):
    """The same on a terminal, as a bar."""

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        super().__init__(title, total, unit, done)
        from rich.console import Console  # only where a person watches
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
        """Records `amount` more and redraws the bar."""
        self.done += amount
        self.bar.update(self._task, completed=self.done, words="  ".join(self.words()))


@contextmanager
def progress(title: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
    """A `Bar` where standard error is a terminal, else a `Progress`."""
    if not _speaks or not sys.stderr.isatty():
        yield Progress(title, total, unit, done)
        return
    bar = Bar(title, total, unit, done)
    with bar.bar:
        yield bar


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
