"""A line that loses, cuts, doubles, delays and garbles bytes, both ways, by a seed: for tests of the link."""

from __future__ import annotations

import random
from collections.abc import Callable

from poet_hil.target import Target

KINDS = ("lose", "cut", "double", "delay", "flip", "insert", "swap", "lose all", "double all")

Disturbed = tuple[bytes, bytes]
"""What arrives now, and what arrives late."""


def disturb(kind: str, data: bytes, at: int, noise: int) -> Disturbed:
    """Disturb a frame at a byte; `noise` is a byte that gets in, or a bit that flips (modulo 8)."""
    head, tail = data[:at], data[at:]
    match kind:
        case "lose":
            return head + tail[1:], b""
        case "cut":
            return head, b""
        case "double":
            return head + tail[:1] + tail, b""
        case "delay":
            return head, tail
        case "flip":
            return head + bytes([tail[0] ^ 1 << noise % 8]) + tail[1:], b""
        case "insert":
            return head + bytes([noise]) + tail, b""
        case "swap":
            return head + tail[1:2] + tail[:1] + tail[2:], b""
        case "lose all":
            return b"", b""
        case "double all":
            return data + data, b""
    raise ValueError(f"{kind!r} is no disturbance")


class NoisyTarget(Target):
    """Between a link and its target. Each frame is disturbed with probability `share`, or by `once` alone if it is set.

    What is late to the device comes with the next frame; a late answer comes once the link has waited in vain.
    """

    def __init__(self, target: Target, seed: int, share: float) -> None:
        self.name = target.name
        self.log = target.log
        self.disturbed = 0
        """Frames so far."""
        self.once: dict[str, Callable[[bytes], Disturbed]] = {}
        """'to' or 'from' the device: what happens to the next frame that way, and then no more."""
        self.share = share
        self.is_cut = False
        """Nothing passes, either way."""
        self._target = target
        self._random = random.Random(seed)
        self._late_to_device = b""
        self._late_from_device: list[bytes] = []

    def open(self) -> None:
        """As the target."""
        self._target.open()

    def send(self, data: bytes) -> None:
        """Disturbed, delimiter and all."""
        now, late = self._pass("to", data)
        self._target.send(self._late_to_device + now)
        self._late_to_device = late

    def expect(self, deadline: float) -> bytes | None:
        """Disturbed; what a zero byte that got in splits comes in pieces, as it would from a port."""
        while (frame := self._target.expect(deadline)) is not None:
            now, late = self._pass("from", frame)
            self._late_from_device += [piece for piece in late.split(b"\0") if piece]
            pieces = [piece for piece in now.split(b"\0") if piece]
            if pieces:
                self._late_from_device[:0] = pieces[1:]
                return pieces[0]
        return self._late_from_device.pop(0) if self._late_from_device else None

    def reset(self) -> None:
        """As the target."""
        self._target.reset()

    def close(self) -> None:
        """As the target."""
        self._target.close()

    def _pass(self, way: str, data: bytes) -> Disturbed:
        if self.is_cut:
            return b"", b""
        given = self.once.pop(way, None)
        if given is not None:
            self.disturbed += 1
            return given(data)
        if self._random.random() >= self.share:
            return data, b""
        self.disturbed += 1
        kind = self._random.choice(KINDS)
        return disturb(kind, data, self._random.randrange(len(data)), self._random.randrange(256))
