"""Targets whose firmware runs as a process: owned by this session, or left running by an earlier command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import IO

from poet_hil import process
from poet_hil.errors import TargetBusy
from poet_hil.targets.serial import SerialTarget

_GONE_S = 5.0
"""The connection breaks a moment before the process is gone: longer where the machine is busy."""


class ProcessTarget(SerialTarget):
    """Starts its program when opened and ends it when closed. Storage files and the log are in `folder`."""

    def __init__(self, program: process.Program, folder: Path, log_name: str) -> None:
        super().__init__("socket://127.0.0.1:0", name=program.name, log=folder / log_name)
        self.program = program
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start the program and connect to it."""
        self._start(append=False)

    def reset(self) -> None:
        """End the program and start it again: a power cycle; storage keeps what was written."""
        self.close()
        self._start(append=True)

    def close(self) -> None:
        """Disconnect and end the program properly, so that no write is lost."""
        super().close()
        if self._process is not None:
            process.end_child(self._process, timeout_s=10.0)
            self._process = None

    def end_of_process(self) -> str | None:
        """Say how the program ended."""
        if self._process is None:
            return "its process was never started"
        try:
            return f"the process {process.how_it_ended(self._process.wait(timeout=_GONE_S))}"
        except subprocess.TimeoutExpired:
            return None

    def _start(self, *, append: bool) -> None:
        if self._process is None:
            assert self.log is not None
            started = process.start(self.program, self.folder, self.log, append=append)
            self._process = started.process
            self.url = started.url
        try:
            super().open()
        except BaseException:
            self.close()
            raise


class AttachedTarget(SerialTarget):
    """A process that an earlier command left running. Closing it disconnects and leaves it running."""

    def __init__(self, url: str, *, name: str, pid: int, started: str, log: Path, lock: Path) -> None:
        super().__init__(url, name=name, log=log)
        self._pid = pid
        self._started = started
        self._lock_path = lock
        self._lock: IO[bytes] | None = None

    def open(self) -> None:
        """Connect; TargetBusy when another session is connected."""
        if self._lock is None:
            self._lock = _lock(self._lock_path, self.name)
        try:
            super().open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect."""
        super().close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def end_of_process(self) -> str | None:
        """Say that the process is gone; how it ended is known to nobody."""
        gone = process.has_ended(self._pid, self._started, within_s=_GONE_S)
        return f"process {self._pid} has ended" if gone else None


def _lock(path: Path, name: str) -> IO[bytes]:
    """Take the lock that lasts until the file is closed, or this process ends in whatever way."""
    file = path.open("ab")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise TargetBusy(
                f"The target {name} is in use by another poet command. Wait until that ends, or end it, and try again."
            ) from error
    return file
