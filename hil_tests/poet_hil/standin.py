"""A device made of Python: speaks the protocol and pretends to train, for tests of what sits above the link.

`python -m poet_hil.standin MANIFEST PORT` serves it on a TCP port, as the firmware's host program does.
"""

from __future__ import annotations

import argparse
import collections
import math
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poet_hil.manifest import Manifest
from poet_hil.protocol import (
    ABI,
    FRAME_BYTES,
    PAYLOAD_BYTES,
    RESPONSE,
    BadFrame,
    Checkpointed,
    Command,
    DeviceStatus,
    Frame,
    Heartbeat,
    Hello,
    InferDone,
    Restored,
    Status,
    TrainStep,
    decode,
    encode,
)
from poet_hil.target import Target

TICK_HZ = 1_000_000
_PROFILE_MOST = (PAYLOAD_BYTES - 8) // 4


class _Refused(Exception):
    """A command ends with a status that is not OK."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


class StandIn:
    """The device. `heartbeats` come before every answer to TRAIN; `executed` counts commands that ran."""

    def __init__(self, manifest: Manifest, *, heartbeats: int = 0) -> None:
        self.manifest = manifest
        self.heartbeats = heartbeats
        self.executed: collections.Counter[int] = collections.Counter()
        self.checkpoint: tuple[int, int, list[bytes]] | None = None
        self._received = bytearray()
        self._handlers: dict[int, tuple[int, int, Callable[[bytes], bytes]]] = {
            Command.HELLO: (0, 0, self._hello),
            Command.WRITE_INPUT: (9, PAYLOAD_BYTES, self._write_input),
            Command.WRITE_LABEL: (5, PAYLOAD_BYTES, lambda p: self._write(self._label, p)),
            Command.TRAIN: (4, 4, self._train),
            Command.INFER: (0, 0, self._infer),
            Command.READ_OUTPUT: (8, 8, lambda p: self._read(self._output, *struct.unpack("<II", p))),
            Command.READ_PARAM: (12, 12, self._read_param),
            Command.WRITE_PARAM: (9, PAYLOAD_BYTES, self._write_param),
            Command.STATUS: (0, 0, self._status),
            Command.PROFILE: (4, 4, self._profile),
            Command.CHECKPOINT: (0, 0, self._checkpoint),
            Command.RESTORE: (0, 0, self._restore),
            Command.RESET: (0, 0, lambda _: b""),
            Command.INIT: (0, 0, self._init),
        }
        self.reset()

    def reset(self) -> None:
        """Boot: go on from the checkpoint, if there is one."""
        m = self.manifest
        self._inputs = [bytearray(array.bytes) for array in m.inputs]
        self._label = bytearray(m.label.bytes)
        self._output = bytearray(m.output.bytes)
        self._written: set[int] = set()
        self._inputs_written: set[int] = set()
        self._params = [bytearray(np.linspace(-1, 1, math.prod(p.shape), dtype="<f4").tobytes()) for p in m.params]
        self.steps_done = 0
        self.frames_dropped = 0
        self._last_error = 0
        self._answered: tuple[bytes, bytes] | None = None
        self.resumed_sequence = 0
        if self.checkpoint is not None:
            self._restore(b"")

    def receive(self, data: bytes) -> bytes:
        """Take bytes as they arrive; return what the device sends then."""
        sent = bytearray()
        for byte in data:
            if byte:
                # One more than fits is enough to know that the frame is too long.
                if len(self._received) <= FRAME_BYTES:
                    self._received.append(byte)
                continue
            if self._received:
                sent += self._frame(bytes(self._received))
                self._received.clear()
        return bytes(sent)

    def _frame(self, data: bytes) -> bytes:
        try:
            frame = decode(data)
        except BadFrame:
            self.frames_dropped += 1
            return b""
        if self._answered is not None and self._answered[0] == data:
            return self._answered[1]
        before = b""
        try:
            payload, status = self._execute(frame), Status.OK
        except _Refused as refused:
            payload, status = b"", refused.status
            self._last_error = status
        if frame.type == Command.TRAIN:
            total = self.manifest.marked_steps
            beats = (Heartbeat.LAYOUT.pack(n, total, n * TICK_HZ) for n in range(self.heartbeats))
            before = b"".join(encode(Frame(Command.HEARTBEAT, frame.seq, payload=beat)) for beat in beats)
        answer = encode(Frame(frame.type | RESPONSE, frame.seq, status, payload))
        self._answered = None if frame.type == Command.HELLO else (data, answer)
        if frame.type == Command.RESET and status == Status.OK:
            self.reset()
        return before + answer

    def _execute(self, frame: Frame) -> bytes:
        if frame.abi != ABI:
            raise _Refused(Status.ABI)
        if frame.type not in self._handlers:
            raise _Refused(Status.UNKNOWN_COMMAND)
        least, most, handler = self._handlers[frame.type]
        if not least <= len(frame.payload) <= most:
            raise _Refused(Status.LENGTH)
        payload = handler(frame.payload)
        self._written.add(frame.type)
        self.executed[frame.type] += 1
        return payload

    def _hello(self, _: bytes) -> bytes:
        m = self.manifest
        return Hello.LAYOUT.pack(
            bytes.fromhex(m.model_digest),
            bytes.fromhex(m.schedule_digest),
            PAYLOAD_BYTES,
            m.arena_bytes,
            sum(array.bytes for array in m.inputs),
            m.label.bytes,
            m.output.bytes,
            len(m.params),
            m.marked_steps,
            self.steps_done,
            TICK_HZ,
            m.board.id.encode(),
            m.tool_version.encode(),
            b"stand-in",
            b"none",
            self.resumed_sequence,
        )

    def _write(self, buffer: bytearray, payload: bytes) -> bytes:
        (offset,) = struct.unpack_from("<I", payload)
        data = payload[4:]
        if offset + len(data) > len(buffer):
            raise _Refused(Status.RANGE)
        buffer[offset : offset + len(data)] = data
        return b""

    def _read(self, buffer: bytearray, offset: int, length: int) -> bytes:
        if length > PAYLOAD_BYTES or offset + length > len(buffer):
            raise _Refused(Status.RANGE)
        return bytes(buffer[offset : offset + length])

    def _write_input(self, payload: bytes) -> bytes:
        (index,) = struct.unpack_from("<I", payload)
        if index >= len(self._inputs):
            raise _Refused(Status.RANGE)
        self._inputs_written.add(index)
        return self._write(self._inputs[index], payload[4:])

    def _input_values(self) -> list[NDArray[Any]]:
        """The inputs, checked as the firmware does."""
        if len(self._inputs_written) < len(self._inputs):
            raise _Refused(Status.NOT_READY)
        values = []
        for array, data in zip(self.manifest.inputs, self._inputs, strict=True):
            values.append(np.frombuffer(data, "<i4" if array.dtype == "int32" else "<f4"))
            if array.index_range is not None:
                first, end = array.index_range
                if ((values[-1] < first) | (values[-1] >= end)).any():
                    raise _Refused(Status.INPUT)
        return values

    def _label_values(self) -> NDArray[Any]:
        if Command.WRITE_LABEL not in self._written:
            raise _Refused(Status.NOT_READY)
        label = self.manifest.label
        if not label.classes:
            return self._floats(self._label)
        labels = np.frombuffer(self._label, dtype="<i4")
        if ((labels < 0) | (labels >= label.classes)).any():
            raise _Refused(Status.LABEL)
        return labels

    def _param(self, index: int) -> bytearray:
        if index >= len(self._params):
            raise _Refused(Status.RANGE)
        return self._params[index]

    def _read_param(self, payload: bytes) -> bytes:
        index, offset, length = struct.unpack("<III", payload)
        return self._read(self._param(index), offset, length)

    def _write_param(self, payload: bytes) -> bytes:
        (index,) = struct.unpack_from("<I", payload)
        param = self._param(index)
        if self.manifest.params[index].home in ("rom", "frozen"):
            raise _Refused(Status.RANGE)
        return self._write(param, payload[4:])

    def _floats(self, data: bytearray) -> NDArray[np.float32]:
        return np.frombuffer(data, dtype="<f4")

    def _train(self, payload: bytes) -> bytes:
        """Move every parameter by rate x (label + 1); the loss says all that went in."""
        (rate,) = struct.unpack("<f", payload)
        if not math.isfinite(rate):
            raise _Refused(Status.RANGE)
        inputs = self._input_values()
        labels = self._label_values()
        with np.errstate(all="ignore"):
            move = np.float32(rate) * np.float32(labels.sum() + 1)
            loss = np.float32(sum(values.mean() for values in inputs) + labels.sum())
            for param in self._params:
                loss = np.float32(loss + self._floats(param).mean())
            if not np.isfinite(loss):
                raise _Refused(Status.NOT_FINITE)
            for index, param in enumerate(self._params):
                if self.manifest.params[index].home not in ("rom", "frozen"):
                    self._params[index] = bytearray((self._floats(param) - move).astype("<f4").tobytes())
        self.steps_done += 1
        return TrainStep.LAYOUT.pack(float(loss), self.steps_done, 100)

    def _infer(self, _: bytes) -> bytes:
        """Favour the class that is nearest to the sample's first value."""
        m = self.manifest
        first = self._input_values()[0].reshape(m.batch, -1)[:, :1]
        logits = -np.abs(np.arange(math.prod(m.output.shape) // m.batch) - first)
        self._output[:] = logits.astype("<f4").tobytes()
        return InferDone.LAYOUT.pack(50)

    def _status(self, _: bytes) -> bytes:
        kinds = collections.Counter(step.do for step in self.manifest.steps)
        recomputes = sum(step.recompute for step in self.manifest.steps)
        counts = (kinds["page_out"], kinds["page_in"], recomputes) if self.steps_done else (0, 0, 0)
        return DeviceStatus.LAYOUT.pack(
            self.steps_done, *counts, 0, self.frames_dropped, self.manifest.peak_bytes, 0, 0, self._last_error, 0
        )

    def _profile(self, payload: bytes) -> bytes:
        (first,) = struct.unpack("<I", payload)
        if first > self.manifest.marked_steps:
            raise _Refused(Status.RANGE)
        ticks = range(first, min(first + _PROFILE_MOST, self.manifest.marked_steps))
        return struct.pack(f"<II{len(ticks)}I", first, len(ticks), *ticks)

    def _checkpoint(self, _: bytes) -> bytes:
        sequence = 1 if self.checkpoint is None else self.checkpoint[0] + 1
        self.checkpoint = (sequence, self.steps_done, [bytes(param) for param in self._params])
        return Checkpointed.LAYOUT.pack(sequence)

    def _init(self, _: bytes) -> bytes:
        self.checkpoint = None
        self.reset()
        return b""

    def _restore(self, _: bytes) -> bytes:
        if self.checkpoint is None:
            raise _Refused(Status.NO_CHECKPOINT)
        sequence, self.steps_done, params = self.checkpoint
        self._params = [bytearray(param) for param in params]
        self.resumed_sequence = sequence
        return Restored.LAYOUT.pack(sequence, self.steps_done)


Disturb = Callable[[bytes], bytes]


def _leave(data: bytes) -> bytes:
    return data


class StandInTarget(Target):
    """A stand-in in this process; what goes to and from it may be disturbed. It never waits."""

    def __init__(self, device: StandIn, *, to_device: Disturb = _leave, from_device: Disturb = _leave) -> None:
        self.name = "the stand-in"
        self.device = device
        self.to_device = to_device
        self.from_device = from_device
        self._arrived = bytearray()

    def open(self) -> None:
        """Nothing to open."""

    def send(self, data: bytes) -> None:
        """Let the device work on the bytes at once."""
        self._arrived += self.from_device(self.device.receive(self.to_device(data)))

    def expect(self, deadline: float) -> bytes | None:
        """Return what has arrived up to a delimiter; None at once when there is none."""
        while (end := self._arrived.find(0)) >= 0:
            frame = bytes(self._arrived[:end])
            del self._arrived[: end + 1]
            if frame:
                return frame
        return None

    def reset(self) -> None:
        """Power-cycle."""
        self._arrived.clear()
        self.device.reset()

    def close(self) -> None:
        """Nothing to close."""


def serve(device: StandIn, listener: socket.socket) -> None:
    """Serve a device to one client after the other, until the listener is closed."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            try:
                while data := client.recv(4096):
                    client.sendall(device.receive(data))
            except OSError:
                continue


def main() -> None:
    """Serve a stand-in for the build of a manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    manifest = Manifest.model_validate_json(options.manifest.read_bytes())
    with socket.create_server(("127.0.0.1", options.port)) as listener:
        serve(StandIn(manifest), listener)


if __name__ == "__main__":
    main()
