"""A PPK2 made of a pty: it speaks the instrument's serial protocol, with a current and a marker that a test plays.

The protocol is that of Nordic's own application and of ppk2-api: commands of one byte and their arguments, calibration
as text that ends in END, then 32-bit samples: 14 bits of ADC, 3 of range, 6 of a counter, 8 of the logic port.
"""

from __future__ import annotations

import os
import struct
import threading
import time
import tty

AVERAGE_START, AVERAGE_STOP, DEVICE_RUNNING_SET, REGULATOR_SET, SET_POWER_MODE, GET_META_DATA = 6, 7, 12, 13, 17, 25
_ARGUMENTS = {DEVICE_RUNNING_SET: 1, REGULATOR_SET: 2, SET_POWER_MODE: 1}
RANGE, OHMS = 3, 1.8
_VOLTS_A_COUNT = 4 * 1.8 / 163840  # the ADC's counts come divided by 4
AMPERES_A_COUNT = _VOLTS_A_COUNT / OHMS
_META = "Calibrated: 0\n" + "".join(
    f"R{i}: {OHMS}\nGS{i}: 0\nGI{i}: 1\nO{i}: 0\nS{i}: 0\nI{i}: 0\nUG{i}: 1\n" for i in range(5)
)


class Ppk2StandIn:
    """Serves until closed; `port` is what a host opens. `commands` holds what came, arguments included."""

    def __init__(self, meta: str = _META + "END") -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self.commands: list[bytes] = []
        self._meta = meta
        self._counter = 0
        self.running = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def play(self, counts: int, samples: int, marker: bool) -> None:
        """Send samples of a current of `counts` ADC counts; blocks until the host took them."""
        assert self.running.wait(20.0)
        for start in range(0, samples, 512):
            words = [self._word(counts, marker) for _ in range(min(512, samples - start))]
            os.write(self._master, struct.pack(f"<{len(words)}I", *words))

    def wait_for(self, command: bytes) -> None:
        """Until a command has come: what the host writes is read by a thread."""
        deadline = time.monotonic() + 10.0
        while command not in self.commands:
            assert time.monotonic() < deadline, self.commands
            time.sleep(0.01)

    def skip(self) -> None:
        """Lose a sample."""
        self._counter += 1

    def close(self) -> None:
        """Unplug it."""
        if not self._closed:
            self._closed = True
            os.close(self._slave)
            os.close(self._master)

    def _word(self, counts: int, marker: bool) -> int:
        word = counts | RANGE << 14 | (self._counter & 0x3F) << 18 | int(marker) << 24
        self._counter += 1
        return word

    def _serve(self) -> None:
        while not self._closed:
            try:
                command = os.read(self._master, 1)
                command += b"".join(os.read(self._master, 1) for _ in range(_ARGUMENTS.get(command[0], 0)))
            except (OSError, IndexError):
                return
            self.commands.append(command)
            if command[0] == GET_META_DATA:
                os.write(self._master, self._meta.encode())
            elif command[0] == AVERAGE_START:
                self.running.set()
            elif command[0] == AVERAGE_STOP:
                self.running.clear()
