"""The one thing that a hardware-in-loop test sees: something that takes and gives frames."""

from __future__ import annotations

import collections
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self


class Target(ABC):
    """A device to open, speak to, restart and close. Deadlines are time.monotonic() seconds."""

    name: str
    """For messages: the port's URL or the emulated machine."""

    log: Path | None = None
    """Where the target's own output goes, if there is such a file."""

    @abstractmethod
    def open(self) -> None:
        """Get ready to send. TargetMissing, TargetBusy or TargetDied when that fails."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send bytes, delimiters included. TargetDied when the connection is gone."""

    @abstractmethod
    def expect(self, deadline: float) -> bytes | None:
        """Return the bytes up to the next delimiter, without it; None when the deadline passes first.

        Never returns empty bytes. TargetDied when the connection is gone.
        """

    @abstractmethod
    def reset(self) -> None:
        """Restart the device and open it again; whatever was received before is forgotten."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the device. Closing twice is fine."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def log_tail(log: Path | None, lines: int = 5) -> str:
    """Describe the last lines of a log in a sentence."""
    if log is None:
        return "The target keeps no log."
    try:
        with log.open("r", encoding="utf-8", errors="replace") as file:
            last = [line.rstrip() for line in collections.deque(file, maxlen=lines)]
    except OSError as error:
        return f"Its log {log} cannot be read ({error.strerror})."
    if not last:
        return f"Its log {log} is empty."
    return f"The last lines of its log {log}: {' | '.join(last)}."
