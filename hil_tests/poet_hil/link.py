"""Requests and responses over a Target: sequence numbers, retries, deadlines, chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from poet_hil.errors import DeviceError, LinkTimeout, ProtocolError
from poet_hil.protocol import (
    ABI,
    DELIMITER,
    PAYLOAD_BYTES,
    RESPONSE,
    BadFrame,
    Command,
    Frame,
    Heartbeat,
    Status,
    decode,
    encode,
    status_text,
)
from poet_hil.target import Target, log_tail

OnHeartbeat = Callable[[Heartbeat], None]

# Heartbeats come every 0.25 s; a device that sent one is given this long for the next, however short the time-out.
HEARTBEAT_GRACE_S = 2.0


@dataclass
class LinkCounts:
    """What the link had to cope with so far, in frames."""

    retries: int = 0
    garbled: int = 0
    unexpected: int = 0
    heartbeats: int = 0


@dataclass(frozen=True)
class _Asked:
    """A request as it goes out, and how long and how often to wait for its answer."""

    command: Command
    wire: bytes
    timeout_s: float
    tries: int


class Link:
    """Asks a target and waits for the answer. Times are in seconds.

    A request is sent again, with the same sequence number, when `timeout_s` passes without its answer; the
    device answers a repeated request without executing it twice. A heartbeat starts the wait anew: a device
    that sends them is slow, one that sends nothing is dead.
    """

    def __init__(
        self,
        target: Target,
        *,
        timeout_s: float = 2.0,
        tries: int = 4,
        on_heartbeat: OnHeartbeat | None = None,
        first_seq: int | None = None,
    ) -> None:
        self.target = target
        self.timeout_s = timeout_s
        self.tries = tries
        self.on_heartbeat = on_heartbeat
        self.counts = LinkCounts()
        self._last: _Asked | None = None
        # An answer that a former session left on the way should not have the number of one that we wait for.
        self._seq = secrets.randbelow(1 << 16) if first_seq is None else first_seq

    def request(
        self,
        command: Command,
        payload: bytes = b"",
        *,
        timeout_s: float | None = None,
        tries: int | None = None,
    ) -> bytes:
        """Send a request and return its response's payload. DeviceError when the device refuses."""
        self._seq = (self._seq + 1) & 0xFFFF
        self._last = _Asked(
            command,
            encode(Frame(command, self._seq, payload=payload)),
            self.timeout_s if timeout_s is None else timeout_s,
            self.tries if tries is None else tries,
        )
        return self._ask(self._last, again=command is Command.HELLO)

    def finish(self, command: Command) -> bytes | None:
        """Return the payload that the last request was interrupted for, or None when it was not this command.

        Asks it again under its number: a device that executed it already repeats its answer.
        """
        return self._ask(self._last, again=True) if self._last and self._last.command is command else None

    def _ask(self, asked: _Asked, *, again: bool) -> bytes:
        command, wait_s, tries = asked.command, asked.timeout_s, asked.tries
        for attempt in range(tries):
            if attempt:
                self.counts.retries += 1
            # The delimiter in front ends whatever half frame the device may hold after a disturbance.
            self.target.send(DELIMITER + asked.wire if attempt or again else asked.wire)
            response = self._await(command, wait_s)
            if response is not None:
                return self._payload(command, response)
        raise LinkTimeout(
            f"{self.target.name} did not answer {command.name} (sequence number {self._seq}) within "
            f"{wait_s:g} s, {tries} times over; {self.counts.garbled} garbled and "
            f"{self.counts.unexpected} unexpected frames came since the link was opened. "
            f"{log_tail(self.target.log)} Check that the firmware runs and that the port and its speed are "
            f"right; `poet flash` starts it again."
        )

    def read(self, command: Command, head: Callable[[int, int], bytes], size_bytes: int) -> bytes:
        """Read an object in chunks; `head(offset, length)` packs the request for one."""
        data = bytearray()
        while len(data) < size_bytes:
            length = min(PAYLOAD_BYTES, size_bytes - len(data))
            chunk = self.request(command, head(len(data), length))
            if len(chunk) != length:
                raise ProtocolError(
                    f"{self.target.name} answered {command.name} with {len(chunk)} bytes instead of "
                    f"{length}. Firmware and poet-mcu are of different versions; run `poet build` and `poet "
                    f"flash`."
                )
            data += chunk
        return bytes(data)

    def write(self, command: Command, head: Callable[[int], bytes], data: bytes) -> None:
        """Write an object in chunks; `head(offset)` packs what stands before the bytes of one."""
        offset = 0
        while offset < len(data):
            start = head(offset)
            chunk = data[offset : offset + PAYLOAD_BYTES - len(start)]
            self.request(command, start + chunk)
            offset += len(chunk)

    def _await(self, command: Command, wait_s: float) -> Frame | None:
        deadline = time.monotonic() + wait_s
        raw = self.target.expect(deadline)
        while raw is not None:
            try:
                frame = decode(raw)
            except BadFrame:
                self.counts.garbled += 1
            else:
                if frame.type == Command.HEARTBEAT:
                    deadline = time.monotonic() + max(wait_s, HEARTBEAT_GRACE_S)
                    self._heard(frame)
                elif frame.type == command | RESPONSE and frame.seq == self._seq:
                    return frame
                else:
                    self.counts.unexpected += 1
            # A flood of garbage must not keep us from the deadline.
            raw = self.target.expect(deadline) if time.monotonic() < deadline else None
        return None

    def _heard(self, frame: Frame) -> None:
        self.counts.heartbeats += 1
        # One of an earlier command shows that the device lives, but is no progress of this one.
        if self.on_heartbeat is not None and frame.seq == self._seq:
            self.on_heartbeat(Heartbeat.unpack(frame.payload))

    def _payload(self, command: Command, response: Frame) -> bytes:
        if response.abi != ABI:
            raise ProtocolError(
                f"{self.target.name} speaks protocol version {response.abi}, this poet-mcu speaks {ABI}. Run "
                f"`poet build` and `poet flash` with the poet-mcu that trains."
            )
        if response.status != Status.OK:
            raise DeviceError(
                f"{self.target.name} refused {command.name}: {status_text(response.status)}", response.status
            )
        return response.payload
