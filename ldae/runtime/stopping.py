"""Requests to stop: signals and time limits, which a stage answers by saving its state."""

from __future__ import annotations

import math
import signal
import time
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STOPPED = 75  # exit status of a stage that saved its state and can be resumed (EX_TEMPFAIL)


class Stopped(Exception):
    """A stage stopped because it was asked to. A training saves first, and resumes when it is started again."""


class Stopping:
    """Whether this process was asked to stop: by SIGTERM or SIGUSR1, or because its time limit is near."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.in_time = False  # the reason is a time limit, not a signal
        self._deadline = math.inf

    def watch(self, minutes: float | None = None, *, elapsed: float = 0.0) -> None:
        """Handles the signals from now on, and stops before a limit of `minutes`, of which `elapsed` seconds are over.

        A tenth of the limit, at most two minutes, is reserved for saving.
        """
        for number in SIGNALS:
            signal.signal(number, self._hear)
        if minutes is not None:
            self._deadline = time.monotonic() + 60 * minutes - min(6 * minutes, 120.0) - elapsed

    def give_up(self) -> None:
        """Makes each later signal to stop raise `Stopped` at once, wherever the process is."""
        for number in SIGNALS:
            signal.signal(number, self._abandon)

    def asked(self) -> str | None:
        """The reason to stop, or None."""
        if self.reason is None and time.monotonic() > self._deadline:
            self.reason, self.in_time = "its time limit is near", True
        return self.reason

    def check(self, doing: str) -> None:
        """Raises `Stopped` if this process was asked to stop; `doing` names the unfinished work."""
        if reason := self.asked():
            raise Stopped(f"stopped {doing}: {reason}")

    def _hear(self, number: int, _: FrameType | None) -> None:
        self.reason = f"{signal.Signals(number).name} was received"

    def _abandon(self, number: int, frame: FrameType | None) -> None:
        self._hear(number, frame)
        raise Stopped(f"stopped: {self.reason}")


stopping = Stopping()
