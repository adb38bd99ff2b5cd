"""A target on a bad line: whatever comes, the device answers or drops it, and never trains twice."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from cobs import cobs
from numpy.typing import NDArray
from poet_hil.device import DeviceClient
from poet_hil.noise import NoisyTarget
from poet_hil.protocol import ABI, PAYLOAD_BYTES, RESPONSE, Command, Frame, Status, decode, encode
from poet_hil.target import Target

Sample = tuple[NDArray[np.float32], NDArray[np.int32]]
RATE = 0.01


@pytest.fixture
def line(device: DeviceClient) -> Iterator[NoisyTarget]:
    """Between the device and its target, and quiet."""
    target = device.link.target
    line = NoisyTarget(target, seed=0, share=0.0)
    device.link.target = line
    device.link.timeout_s = 0.1
    device.link.tries = 300  # for a machine that stands still for seconds: what comes late is asked again
    yield line
    device.link.target = target


def exchange(target: Target, frame: Frame) -> Frame:
    """Send a frame and wait for what answers it."""
    target.send(encode(frame))
    deadline = time.monotonic() + 60
    while (raw := target.expect(deadline)) is not None:
        answer = decode(raw)
        if answer.seq == frame.seq:
            return answer
    raise AssertionError(f"no answer to {frame}")


@pytest.mark.parametrize(
    "change",
    [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"\x03" + data],
    ids=["lost", "cut", "garbled"],
)
@pytest.mark.parametrize("way", ["to", "from"])
def test_a_disturbed_train_trains_once(
    device: DeviceClient,
    line: NoisyTarget,
    samples: list[Sample],
    way: str,
    change: Callable[[bytes], bytes],
) -> None:
    device.write_sample(*samples[0])
    expected = device.train(RATE)
    device.reset()
    device.write_sample(*samples[0])
    line.once[way] = lambda data: (change(data), b"")
    # TRAIN has a longer time-out than the line needs; ask as train() does, but with the line's.
    answer = device.link.request(Command.TRAIN, struct.pack("<f", RATE), timeout_s=0.5)
    loss, steps_done, _ = struct.unpack("<fIQ", answer)
    assert (loss, steps_done) == (expected.loss, 1)
    assert device.link.counts.retries >= 1
    assert device.status().steps_done == 1


def test_a_doubled_request_is_executed_once(device: DeviceClient, line: NoisyTarget, samples: list[Sample]) -> None:
    device.write_sample(*samples[0])
    line.once["to"] = lambda data: (data + data, b"")
    assert device.train(RATE).steps_done == 1
    assert device.status().steps_done == 1
    # More where a busy machine was late, and the host asked again.
    assert device.link.counts.unexpected >= 1


def test_malformed_frames_are_answered_or_dropped(device: DeviceClient, target: Target) -> None:
    seq = 40000
    for kind, payload, status in (
        (0x55, b"", Status.UNKNOWN_COMMAND),
        (Command.HEARTBEAT, b"", Status.UNKNOWN_COMMAND),
        (0, b"", Status.UNKNOWN_COMMAND),
        (Command.TRAIN, b"", Status.LENGTH),
        (Command.TRAIN, bytes(5), Status.LENGTH),
        (Command.HELLO, b"\1", Status.LENGTH),
        (Command.WRITE_INPUT, bytes(3), Status.LENGTH),
        (Command.WRITE_INPUT, struct.pack("<II", 0, 2**32 - 1) + b"\1\2", Status.RANGE),
        (Command.WRITE_INPUT, struct.pack("<II", 2**32 - 1, 0) + b"\1\2", Status.RANGE),
        (Command.WRITE_LABEL, struct.pack("<I", 2**31) + b"\1", Status.RANGE),
        (Command.READ_OUTPUT, struct.pack("<II", 0, PAYLOAD_BYTES + 1), Status.RANGE),
        (Command.READ_OUTPUT, struct.pack("<II", 2**32 - 4, 8), Status.RANGE),
        (Command.READ_PARAM, struct.pack("<III", 2**32 - 1, 0, 4), Status.RANGE),
        (Command.READ_PARAM, struct.pack("<III", 0, 2**32 - 1, 4), Status.RANGE),
        (Command.WRITE_PARAM, struct.pack("<II", 0, 2**32 - 2) + bytes(4), Status.RANGE),
        (Command.PROFILE, struct.pack("<I", 2**32 - 1), Status.RANGE),
    ):
        seq += 1
        answer = exchange(target, Frame(kind, seq, payload=payload))
        assert (answer.type, answer.status, answer.payload) == (kind | RESPONSE, status, b""), (kind, payload)
    answer = exchange(target, Frame(Command.STATUS, seq + 1, abi=ABI + 1))
    assert answer.status == Status.ABI
    assert device.status().steps_done == 0


def too_long() -> bytes:
    """A frame with a good CRC and one byte too many."""
    body = struct.pack("<BBHh", ABI, Command.WRITE_INPUT, 1, 0) + bytes(PAYLOAD_BYTES + 1)
    return bytes(cobs.encode(body + struct.pack("<I", zlib.crc32(body)))) + b"\0"


@pytest.mark.parametrize(
    "noise",
    [
        encode(Frame(Command.STATUS, 1))[:-2] + b"\x01\0",
        encode(Frame(Command.STATUS, 1))[:-3] + b"\0",
        too_long(),
        b"\xff" * 5000 + b"\0",
        b"\x01\0",
        b"\x05ab\0",
    ],
    ids=["wrong CRC", "cut", "too long", "endless", "short", "COBS beyond the end"],
)
def test_what_is_no_frame_is_dropped_and_counted(device: DeviceClient, target: Target, noise: bytes) -> None:
    before = device.status().frames_dropped
    target.send(noise)
    assert device.status().frames_dropped == before + 1
