"""A host on the line, at the level of frames, and the process that plays the device.

Not poet_hil's client, on purpose: this one must be able to say everything wrong that can be said.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from cobs import cobs

ABI = 3
TIMEOUT_S = 60.0
"""Far more than a busy machine takes; only a failure waits as long."""

HELLO, WRITE_INPUT, WRITE_LABEL, TRAIN, INFER, READ_OUTPUT = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
READ_PARAM, WRITE_PARAM, STATUS, PROFILE = 0x07, 0x08, 0x09, 0x0A
CHECKPOINT, RESTORE, RESET, INIT = 0x0B, 0x0C, 0x0D, 0x0E
HEARTBEAT = 0x7E
RESPONSE = 0x80

ERR_UNKNOWN, ERR_ABI, ERR_LENGTH, ERR_RANGE, ERR_LABEL = -1, -2, -3, -4, -5
ERR_STORAGE, ERR_STORAGE_FULL, ERR_CORRUPT = -6, -7, -8
ERR_NOT_FINITE, ERR_NO_CHECKPOINT, ERR_NOT_READY, ERR_INPUT = -9, -10, -11, -12
ERR_NO_DEVICE, ERR_WRONG_DEVICE, ERR_READ_ONLY, ERR_TIMEOUT, ERR_WORN = -13, -14, -15, -16, -17

# The fake model: a bias in RAM, a weight on storage, a scale in ROM; then what its schedule does.
BIAS, WEIGHT, SCALE = 0, 1, 2
PARAM_BYTES = {BIAS: 64, WEIGHT: 1200, SCALE: 16}
ARENA_PEAK_BYTES = 1520
HOMES_AT, SWAP_BYTES = 17 * 16, 76 * 16  # of the weight, where nothing is erased: its first place, and the next
POWER_CUT_EXIT_CODE = 42


@dataclass(frozen=True)
class Frame:
    """One decoded frame."""

    abi: int
    type: int
    seq: int
    status: int
    payload: bytes


@dataclass(frozen=True)
class Status:
    """Payload of STATUS."""

    steps_done: int
    page_outs: int
    page_ins: int
    recomputes: int
    storage_errors: int
    frames_dropped: int
    arena_high_water_bytes: int
    stack_high_water_bytes: int
    stack_bytes: int
    last_error: int
    erases: int


def encode(kind: int, seq: int, payload: bytes = b"", *, abi: int = ABI, status: int = 0) -> bytes:
    """A whole frame as it is on the wire."""
    body = struct.pack("<BBHh", abi, kind, seq, status) + payload
    return cobs.encode(body + struct.pack("<I", zlib.crc32(body))) + b"\0"


def decode(wire: bytes) -> Frame:
    """What encode() made, without the 0x00 at its end."""
    body = cobs.decode(wire)
    assert zlib.crc32(body[:-4]) == struct.unpack("<I", body[-4:])[0]
    return Frame(*struct.unpack("<BBHh", body[:6]), body[6:-4])


class Client:
    """A host on the line."""

    def __init__(self, port: int) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self.received = b""
        self.seq = 0
        self.heartbeats: list[Frame] = []

    def close(self) -> None:
        self.socket.close()

    def send(self, wire: bytes) -> None:
        self.socket.sendall(wire)

    def receive(self) -> Frame:
        """The next frame; ConnectionError when the device is gone, TimeoutError when it is silent."""
        while b"\0" not in self.received:
            data = self.socket.recv(4096)
            if not data:
                raise ConnectionError("the device closed the line")
            self.received += data
        wire, self.received = self.received.split(b"\0", 1)
        return decode(wire)

    def answer(self, seq: int) -> Frame:
        """The response to `seq`; heartbeats on the way are kept."""
        while True:
            frame = self.receive()
            if frame.type == HEARTBEAT:
                self.heartbeats.append(frame)
            elif frame.seq == seq:
                return frame

    def ask(self, kind: int, payload: bytes = b"", **header: int) -> Frame:
        self.seq = (self.seq + 1) & 0xFFFF
        self.send(encode(kind, self.seq, payload, **header))
        frame = self.answer(self.seq)
        assert (frame.abi, frame.type) == (ABI, kind | RESPONSE)
        assert frame.status == 0 or not frame.payload
        return frame

    def do(self, kind: int, payload: bytes = b"") -> bytes:
        """Ask for what must succeed."""
        frame = self.ask(kind, payload)
        assert frame.status == 0, f"command {kind:#x}: status {frame.status}"
        return frame.payload

    def knock(self) -> None:
        """Ask HELLO until it is answered: what comes before the UART is up is lost."""
        deadline = time.monotonic() + TIMEOUT_S
        self.socket.settimeout(0.2)
        while True:
            try:
                self.do(HELLO)
                break
            except TimeoutError:
                assert time.monotonic() < deadline, "the device does not answer"
        self.socket.settimeout(TIMEOUT_S)

    def write_sample(self, *inputs: float, labels: tuple[int, int] = (3, 4), rows: tuple[int, int] = (0, 1)) -> None:
        padded = (*inputs, *[0.0] * (8 - len(inputs)))
        self.do(WRITE_INPUT, struct.pack("<2I8f", 0, 0, *padded))
        self.do(WRITE_INPUT, struct.pack("<2I2i", 1, 0, *rows))
        self.do(WRITE_LABEL, struct.pack("<I2i", 0, *labels))

    def train(self, learning_rate: float = 0.01) -> tuple[float, int, int]:
        """loss, steps_done, ticks"""
        return struct.unpack("<fIQ", self.do(TRAIN, struct.pack("<f", learning_rate)))

    def status(self) -> Status:
        return Status(*struct.unpack("<9IiI", self.do(STATUS)))

    def read_param(self, index: int, size_bytes: int) -> bytes:
        parts = [
            self.do(READ_PARAM, struct.pack("<3I", index, at, min(512, size_bytes - at)))
            for at in range(0, size_bytes, 512)
        ]
        return b"".join(parts)

    def params(self) -> bytes:
        """All that the fake model trains."""
        return self.read_param(0, 64) + self.read_param(1, 1200)


@dataclass
class Device:
    """A process that plays the device."""

    process: subprocess.Popen[str]
    port: int
    storage: Path
    clients: list[Client] = field(default_factory=list)

    def connect(self) -> Client:
        client = Client(self.port)
        self.clients.append(client)
        client.knock()
        return client

    def stop(self) -> int:
        for client in self.clients:
            client.close()
        self.process.terminate()
        try:
            return self.process.wait(TIMEOUT_S)
        finally:
            self.process.kill()
            if self.process.stdout is not None:
                self.process.stdout.close()
