"""Joulescope JS220 (and JS110) through its driver; general-purpose input 0 is on the marker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from poet_hil.errors import MeterError
from poet_hil.meters.meter import Trace, TraceMeter

_SETTLE_S = 0.05
_WAIT_S = 2.0  # for the last samples of a recording to come
_BITS = 8  # of a byte, in which inputs come


class _Signal:
    """Blocks of one signal, put together by the driver's sample numbers."""

    def __init__(self, packed: bool) -> None:
        self._packed = packed
        self.rate_hz = 0.0
        self.blocks: list[tuple[int, Any]] = []

    def take(self, value: dict[str, Any]) -> None:
        step = int(value["decimate_factor"])
        data = np.array(value["data"], copy=True)
        if self._packed:
            data = np.unpackbits(data, bitorder="little")
        self.rate_hz = float(value["sample_rate"]) / step
        self.blocks.append((int(value["sample_id"]) // step, data))

    @property
    def end(self) -> int:
        return self.blocks[-1][0] + len(self.blocks[-1][1]) if self.blocks else 0

    def joined(self, what: str, name: str) -> tuple[int, Any]:
        if not self.blocks:
            raise MeterError(f"{name} sent no samples of {what}. Unplug it and plug it in again.")
        due = self.blocks[0][0]
        joined: list[Any] = []
        for first, data in self.blocks:
            if self._packed and due - _BITS < first < due:
                # The driver does not say where in its last byte a block ends.
                joined[-1] = joined[-1][: first - due]
                due = first
            if first != due:
                raise MeterError(
                    f"{name} lost {first - due} samples of {what}: this machine read too slowly. Measure again."
                )
            due = first + len(data)
            joined.append(data)
        return self.blocks[0][0], np.concatenate(joined)


class Joulescope(TraceMeter):
    """The Joulescope whose path ends in `serial_number`, or the only one there is."""

    def __init__(self, serial_number: str = "") -> None:
        self._wanted = serial_number
        self.name = f"Joulescope {serial_number}".strip()
        self.source = "Joulescope, power at its full rate, marker on general-purpose input 0"
        self._driver: Any = None
        self._path = ""
        self._lock = threading.Lock()
        self._power = _Signal(packed=False)
        self._marker = _Signal(packed=True)
        self._subscriptions: list[tuple[str, Callable[[str, dict[str, Any]], None]]] = []

    def open(self) -> None:
        """Open the instrument and let current through."""
        try:
            from pyjoulescope_driver import Driver
        except ImportError as error:
            raise MeterError(
                "A Joulescope needs the package pyjoulescope-driver. Install it: pip install 'poet-mcu[joulescope]'."
            ) from error
        self._driver = Driver()
        there = sorted(self._driver.device_paths())
        chosen = [path for path in there if path.endswith(self._wanted)]
        if len(chosen) != 1:
            self.close()
            raise MeterError(
                f"{len(chosen)} of {len(there)} Joulescopes fit {self._wanted!r} "
                f"({', '.join(there) or 'none is there'}). "
                "Plug one in, or name one by its serial number: --meter joulescope:000123."
            )
        self._path = chosen[0]
        self._driver.open(self._path)
        self.power(True)

    def close(self) -> None:
        """Let go of the instrument; it goes on letting current through."""
        if self._driver is None:
            return
        if self._path:
            self._driver.close(self._path)
            self._path = ""
        self._driver.finalize()
        self._driver = None

    def power(self, on: bool) -> None:
        """Connect or disconnect the board's supply."""
        topic = "s/i/range/select" if "js110" in self._path else "s/i/range/mode"
        self._publish(topic, "auto" if on else "off")

    def start(self) -> None:
        """Begin to record."""
        self._power, self._marker = _Signal(packed=False), _Signal(packed=True)
        # The driver knows a function by its address, and a bound method is another one each time it is asked for.
        topics = (("s/p/!data", self._on_power), ("s/gpi/0/!data", self._on_marker))
        self._subscriptions = [(f"{self._path}/{topic}", take) for topic, take in topics]
        for topic, take in self._subscriptions:
            self._driver.subscribe(topic, ["pub"], take)
        for topic in self._controls():
            self._publish(topic, 1)
        time.sleep(_SETTLE_S)

    def stop(self) -> Trace:
        """End the recording, once both signals reach to now."""
        time.sleep(_SETTLE_S)
        with self._lock:
            due = max(self._power.end, self._marker.end)
        deadline = time.monotonic() + _WAIT_S
        while min(self._power.end, self._marker.end) < due and time.monotonic() < deadline:
            time.sleep(_SETTLE_S)
        for topic in self._controls():
            self._publish(topic, 0)
        for topic, take in self._subscriptions:
            self._driver.unsubscribe(topic, take)
        with self._lock:
            power_at, power = self._power.joined("power", self.name)
            marker_at, marker = self._marker.joined("input 0", self.name)
        if self._power.rate_hz != self._marker.rate_hz:
            raise MeterError(
                f"{self.name} samples power and its input at different rates. Measure without down-sampling."
            )
        first, end = max(power_at, marker_at), min(power_at + len(power), marker_at + len(marker))
        return Trace(
            power[first - power_at : end - power_at].astype(np.float64),
            marker[first - marker_at : end - marker_at].astype(np.bool_),
            self._power.rate_hz,
        )

    def _controls(self) -> list[str]:
        # A JS110 computes power from both.
        of_power = ["s/i/ctrl", "s/v/ctrl", "s/p/ctrl"] if "js110" in self._path else ["s/p/ctrl"]
        return [*of_power, "s/gpi/0/ctrl"]

    def _publish(self, topic: str, value: object) -> None:
        if self._driver is None:
            raise MeterError(f"{self.name} is not open.")
        self._driver.publish(f"{self._path}/{topic}", value)

    def _on_power(self, _: str, value: dict[str, Any]) -> None:
        with self._lock:
            self._power.take(value)

    def _on_marker(self, _: str, value: dict[str, Any]) -> None:
        with self._lock:
            self._marker.take(value)
