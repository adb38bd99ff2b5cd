"""Nordic's Power Profiler Kit II as source meter: it supplies the board; pin 0 of its logic port is on the marker."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from poet_hil.errors import MeterError
from poet_hil.meters.meter import Trace, TraceMeter

RATE_HZ = 100_000.0
_BYTES = 4
_COUNTER_SHIFT, _COUNTER_MASK = 18, 0x3F  # of a sample's number, which goes round: it tells lost samples
_POLL_S = 0.002
_SETTLE_S = 0.05  # samples before the step and behind it
_DRAIN_S = 2.0  # for what a PPK2 that was told to stop may still send
_ASK_TRIES = 3  # ppk2-api waits half a second for the calibration, and wants it in one piece
_CHOICES = "Name it: --meter ppk2:/dev/ttyACM1."


class Ppk2(TraceMeter):
    """A PPK2 on a serial port, supplying `supply_v` volts."""

    def __init__(self, port: str, supply_v: float) -> None:
        self._port = port
        self._supply_v = supply_v
        self.name = f"PPK2 on {port}"
        self.source = f"PPK2 as source meter at {supply_v:g} V, {RATE_HZ / 1e3:g} kS/s, marker on logic pin 0"
        self._api: Any = None
        self._raw = bytearray()
        self._stop = threading.Event()
        self._reader: threading.Thread | None = None

    def open(self) -> None:
        """Read the calibration and supply the board."""
        try:
            from ppk2_api.ppk2_api import PPK2_API
        except ImportError as error:
            raise MeterError(
                "The PPK2 needs the package ppk2-api. Install it: pip install 'poet-mcu[ppk2]'."
            ) from error
        import serial

        try:
            self._api = PPK2_API(self._port, timeout=1, write_timeout=1, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as error:
            raise MeterError(f"There is no PPK2 on {self._port} ({error}). {_CHOICES}") from error
        # One that still streams would answer with samples.
        self._api.stop_measuring()
        time.sleep(_SETTLE_S)
        self._api.get_data()
        if not any(self._calibrate() for _ in range(_ASK_TRIES)):
            self.close()
            raise MeterError(f"What is on {self._port} does not answer as a PPK2 does. {_CHOICES}")
        self._api.use_source_meter()
        self._api.set_source_voltage(round(self._supply_v * 1000.0))
        self.power(True)

    def _calibrate(self) -> bool:
        try:
            return bool(self._api.get_modifiers())
        except UnicodeDecodeError:
            return False

    def close(self) -> None:
        """Stop recording; the board stays supplied as long as the PPK2 is."""
        if self._api is None:
            return
        self._join()
        self._api.ser.close()
        self._api = None

    def power(self, on: bool) -> None:
        """Switch the board's supply."""
        self._opened().toggle_DUT_power("ON" if on else "OFF")

    def start(self) -> None:
        """Begin to record."""
        api = self._opened()
        api.get_data()
        self._raw.clear()
        self._stop.clear()
        api.start_measuring()

        def read() -> None:
            while not self._stop.is_set():
                self._raw += api.get_data()
                time.sleep(_POLL_S)

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        time.sleep(_SETTLE_S)

    def stop(self) -> Trace:
        """End the recording."""
        api = self._opened()
        time.sleep(_SETTLE_S)
        self._join()
        deadline = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline:
            time.sleep(_SETTLE_S)
            some = api.get_data()
            if not some:
                break
            self._raw += some
        raw = bytes(self._raw[: len(self._raw) // _BYTES * _BYTES])
        if not raw:
            raise MeterError(f"{self.name} sent no samples. Unplug it and plug it in again.")
        _check_counters(raw, self.name)
        api.remainder = {"sequence": b"", "len": 0}
        micro_amperes, logic = api.get_samples(raw)
        amperes = np.array(micro_amperes) * 1e-6
        return Trace(amperes * self._supply_v, (np.array(logic) & 1).astype(np.bool_), RATE_HZ)

    def _join(self) -> None:
        if self._reader is not None:
            self._stop.set()
            self._reader.join()
            self._reader = None
            self._api.stop_measuring()

    def _opened(self) -> Any:
        if self._api is None:
            raise MeterError(f"{self.name} is not open.")
        return self._api


def _check_counters(raw: bytes, name: str) -> None:
    counters = (np.frombuffer(raw, "<u4") >> _COUNTER_SHIFT) & _COUNTER_MASK
    lost = int(np.mod(np.diff(counters.astype(np.int64)) - 1, _COUNTER_MASK + 1).sum())
    if lost:
        raise MeterError(
            f"{name} lost {lost} samples or more of {len(counters)}: this machine read too slowly. Close other "
            "programs, or plug it into a port of its own, and measure again."
        )
