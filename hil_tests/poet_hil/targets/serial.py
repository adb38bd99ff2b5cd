"""A target behind anything that pyserial's serial_for_url opens: COM and tty ports, socket://, rfc2217://."""

from __future__ import annotations

import collections
import errno
import time
from pathlib import Path
from typing import Any

import serial
from serial.tools import list_ports

from poet_hil.errors import TargetBusy, TargetDied, TargetError, TargetMissing
from poet_hil.protocol import DELIMITER, FRAME_BYTES, Command, Frame, encode
from poet_hil.target import Target, log_tail

_READ_POLL_S = 0.05
# Long, for pyserial counts the time that this process had to wait for a processor, too.
_WRITE_TIMEOUT_S = 30.0
_BUSY_WORDS = ("lock", "busy", "in use", "access is denied")


class SerialTarget(Target):
    """A device on a port. `baud` is bits a second; a socket ignores it."""

    def __init__(self, url: str, baud: int = 115200, *, name: str | None = None, log: Path | None = None) -> None:
        self.url = url
        self.baud = baud
        self.name = name or url
        self.log = log
        self._port: Any = None
        self._partial = bytearray()
        self._frames: collections.deque[bytes] = collections.deque()

    def open(self) -> None:
        """Open the port; a missing or busy one is an error that lists the ports there are."""
        if self._port is not None:
            return
        self._forget()
        try:
            self._port = serial.serial_for_url(
                self.url,
                baudrate=self.baud,
                timeout=_READ_POLL_S,
                # pyserial refuses a write time-out on rfc2217, and locks only what is a device of this machine.
                write_timeout=None if self.url.startswith("rfc2217://") else _WRITE_TIMEOUT_S,
                exclusive=None if "://" in self.url else True,
            )
        except (serial.SerialException, OSError, ValueError) as error:
            raise self._cannot_open(error) from error

    def send(self, data: bytes) -> None:
        """Write all bytes."""
        try:
            self._opened().write(data)
        except (serial.SerialException, OSError) as error:
            raise self._died(error) from error

    def expect(self, deadline: float) -> bytes | None:
        """Read up to the next delimiter. What is longer than any frame is cut and comes as garbage."""
        port = self._opened()
        while not self._frames:
            if time.monotonic() >= deadline:
                return None
            try:
                self._take(port.read(max(1, port.in_waiting)))
            except (serial.SerialException, OSError, TypeError) as error:
                # pyserial raises TypeError when a port vanishes between select and read.
                raise self._died(error) from error
        return self._frames.popleft()

    def reset(self) -> None:
        """Ask the firmware to reset. A device that hangs needs its reset button."""
        self.send(DELIMITER + encode(Frame(Command.RESET, seq=0)))
        self._forget()

    def close(self) -> None:
        """Close the port."""
        if self._port is not None:
            self._port.close()
            self._port = None

    def end_of_process(self) -> str | None:
        """Say how the process behind the port ended; None while it runs, and where there is none."""
        return None

    def _opened(self) -> Any:
        if self._port is None:
            raise TargetError(f"{self.name} is not open; open the target before using it.")
        return self._port

    def _take(self, data: bytes) -> None:
        for byte in data:
            if byte:
                self._partial.append(byte)
            if self._partial and (not byte or len(self._partial) > FRAME_BYTES):
                self._frames.append(bytes(self._partial))
                self._partial.clear()

    def _forget(self) -> None:
        self._partial.clear()
        self._frames.clear()

    def _died(self, error: Exception) -> TargetDied:
        end = self.end_of_process()
        if end is not None:
            return TargetDied(
                f"The target {self.name} stopped: {end}. {log_tail(self.log)} Run `poet flash` to start it again."
            )
        return TargetDied(
            f"The target {self.name} stopped: the connection is gone ({error}). {log_tail(self.log)} Check "
            f"cable and power of a board, then run `poet flash` to start again."
        )

    def _cannot_open(self, error: Exception) -> TargetError:
        number = getattr(error, "errno", None)
        reason = str(error)
        if number in (errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK) or (
            number not in (errno.ENOENT, errno.EACCES) and any(w in reason.lower() for w in _BUSY_WORDS)
        ):
            return TargetBusy(
                f"The port {self.url} is in use by another program ({reason}). Close the serial monitor or "
                f"the other poet command that has it, and try again."
            )
        if number == errno.EACCES:
            return TargetMissing(
                f"The port {self.url} may not be opened by this user ({reason}). On Linux add the user to "
                f"the group that owns the port (usually dialout) and log in again."
            )
        if isinstance(error, ValueError):
            return TargetMissing(
                f"The port {self.url!r} cannot be understood ({reason}). Give a device such as /dev/ttyACM0 "
                f"or COM3, or socket://host:port, or rfc2217://host:port. {ports_there_are()}"
            )
        return TargetMissing(
            f"The port {self.url} cannot be opened ({reason}). {ports_there_are()} Check that the board is "
            f"plugged in, powered and named right, or run `poet flash` for an emulated one."
        )


def ports_there_are() -> str:
    """List this machine's serial ports in a sentence."""
    ports = sorted(list_ports.comports(), key=lambda port: str(port.device))
    if not ports:
        return "This machine has no serial ports."
    return "Ports there are: " + ", ".join(f"{p.device} ({p.description})" for p in ports) + "."
