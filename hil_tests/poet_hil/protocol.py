"""The serial protocol's frames and structs. firmware/include/poet/protocol.h and status.h are the authority.

A frame on the wire is COBS(body) and a zero byte. body = header, payload, CRC-32 of both; all little-endian.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Self

from cobs import cobs

from poet_hil.errors import ProtocolError

ABI = 3
PAYLOAD_BYTES = 512
RESPONSE = 0x80  # or-ed to a request's type
DELIMITER = b"\0"

_HEADER = struct.Struct("<BBHh")
_CRC = struct.Struct("<I")
BODY_BYTES = _HEADER.size + PAYLOAD_BYTES + _CRC.size
FRAME_BYTES = BODY_BYTES + (BODY_BYTES + 253) // 254 + 1  # COBS adds a byte for each 254 begun, then the delimiter


class Command(IntEnum):
    """Type of a request; HEARTBEAT is sent by the device alone."""

    HELLO = 0x01
    WRITE_INPUT = 0x02
    WRITE_LABEL = 0x03
    TRAIN = 0x04
    INFER = 0x05
    READ_OUTPUT = 0x06
    READ_PARAM = 0x07
    WRITE_PARAM = 0x08
    STATUS = 0x09
    PROFILE = 0x0A
    CHECKPOINT = 0x0B
    RESTORE = 0x0C
    RESET = 0x0D
    INIT = 0x0E
    HEARTBEAT = 0x7E


class Status(IntEnum):
    """poet_status_t."""

    OK = 0
    UNKNOWN_COMMAND = -1
    ABI = -2
    LENGTH = -3
    RANGE = -4
    LABEL = -5
    STORAGE = -6
    STORAGE_FULL = -7
    CORRUPT = -8
    NOT_FINITE = -9
    NO_CHECKPOINT = -10
    NOT_READY = -11
    INPUT = -12
    NO_DEVICE = -13
    WRONG_DEVICE = -14
    READ_ONLY = -15
    TIMEOUT = -16
    WORN = -17


_OTHER_VERSION = "Firmware and poet-mcu are of different versions; run `poet build` and `poet flash`."
_STATUS_TEXT: dict[int, str] = {
    Status.OK: "it reports no error.",
    Status.UNKNOWN_COMMAND: f"it does not know the command. {_OTHER_VERSION}",
    Status.ABI: f"it speaks another version of the protocol. {_OTHER_VERSION}",
    Status.LENGTH: f"the payload has the wrong length for the command. {_OTHER_VERSION}",
    Status.RANGE: "an index, offset or length lies outside its object. The firmware is of another build; run "
    "`poet flash`.",
    Status.LABEL: "the label is not a class of the model. Give labels from 0 up to the classes less 1.",
    Status.STORAGE: "its storage failed to read, write or erase. Check that the storage device is there and "
    "neither worn out nor full (for an emulated board: that the run folder can be written), then run "
    "`poet flash` and train again.",
    Status.STORAGE_FULL: "its storage is smaller than the schedule needs, or has no room for checkpoints beside its "
    "pages. Plan with another storage device or a larger RAM budget.",
    Status.CORRUPT: "a page came back from storage with a wrong CRC and was not used. Go back to the last checkpoint "
    "with `poet restore`, or `poet flash` and train again; if it happens again, the storage device is failing.",
    Status.NOT_FINITE: "the loss is NaN or infinite, so the step changed no parameter. Train with a lower learning "
    "rate, from these weights, a checkpoint or fresh ones (`poet flash`), and check the input's scale.",
    Status.NO_CHECKPOINT: "there is no checkpoint to restore. Train from the start; `poet train --checkpoint-every 10` "
    "commits one every ten steps.",
    Status.INPUT: "an input holds an index that is not in the table it picks from. Give indices from 0 up to the "
    "table's rows less 1.",
    Status.NOT_READY: "it has no input or label yet, or its parameters are not to be trusted since a step "
    "failed. Restore its checkpoint with `poet restore`, or start anew with `poet flash`.",
    Status.NO_DEVICE: "no storage device answers. Check that the card or chip is in its place, powered and wired to "
    "the pins of the board file, then reset the board.",
    Status.WRONG_DEVICE: "another storage device answers than the board file or the driver expects. Put in a card "
    "or chip that the driver knows, or name the chip's JEDEC id in the board file, and build again.",
    Status.READ_ONLY: "its storage is write-protected. Take the protection off, or put in another card or chip.",
    Status.TIMEOUT: "its storage took longer than such a device ever may. Try another card or chip, shorter wires, or "
    "a slower SPI clock in the board file.",
    Status.WORN: "its storage did not keep what it erased or programmed there: it is worn out, or was written twice. "
    "Put in another card or chip; for a microcontroller's own flash, choose another region in the board file.",
}


def status_text(status: int) -> str:
    """Describe a poet_status_t and the next action, to be put behind a colon."""
    return _STATUS_TEXT.get(status, f"it reports status {status}, which is not known here. {_OTHER_VERSION}")


@dataclass(frozen=True)
class Frame:
    """A well-formed frame. `type` is a Command, or-ed with RESPONSE in a response."""

    type: int
    seq: int
    status: int = Status.OK
    payload: bytes = b""
    abi: int = ABI


class BadFrame(Exception):
    """Received bytes are not a frame: to be dropped and counted."""


def encode(frame: Frame) -> bytes:
    """Return a frame's bytes on the wire, delimiter included."""
    if len(frame.payload) > PAYLOAD_BYTES:
        raise ValueError(f"a payload of {len(frame.payload)} bytes exceeds {PAYLOAD_BYTES}")
    body = _HEADER.pack(frame.abi, frame.type, frame.seq, frame.status) + frame.payload
    return bytes(cobs.encode(body + _CRC.pack(zlib.crc32(body)))) + DELIMITER


def decode(data: bytes) -> Frame:
    """Decode the bytes between two delimiters."""
    try:
        body = bytes(cobs.decode(data))
    except cobs.DecodeError as error:
        raise BadFrame(f"COBS: {error}") from error
    if not _HEADER.size + _CRC.size <= len(body) <= BODY_BYTES:
        raise BadFrame(f"a body of {len(body)} bytes")
    (crc,) = _CRC.unpack_from(body, len(body) - _CRC.size)
    body = body[: -_CRC.size]
    if crc != zlib.crc32(body):
        raise BadFrame("CRC")
    abi, kind, seq, status = _HEADER.unpack_from(body)
    return Frame(type=kind, seq=seq, status=status, payload=body[_HEADER.size :], abi=abi)


def request_offset(offset: int) -> bytes:
    """Pack the head of WRITE_LABEL: {u32 offset}, in bytes."""
    return struct.pack("<I", offset)


def request_span(offset: int, length: int) -> bytes:
    """Pack READ_OUTPUT: {u32 offset, u32 length}, in bytes."""
    return struct.pack("<II", offset, length)


def request_param_span(index: int, offset: int, length: int) -> bytes:
    """Pack READ_PARAM: {u32 index, u32 offset, u32 length}, in bytes."""
    return struct.pack("<III", index, offset, length)


def request_index_offset(index: int, offset: int) -> bytes:
    """Pack the head of WRITE_INPUT and WRITE_PARAM: {u32 index, u32 offset}, in bytes."""
    return struct.pack("<II", index, offset)


def request_train(learning_rate: float) -> bytes:
    """Pack TRAIN: {f32 learning_rate}."""
    return struct.pack("<f", learning_rate)


def request_profile(first: int) -> bytes:
    """Pack PROFILE: {u32 first}, the index of a schedule step."""
    return struct.pack("<I", first)


class Response:
    """A payload of fixed layout."""

    LAYOUT: ClassVar[struct.Struct]

    @classmethod
    def unpack(cls, payload: bytes) -> Self:
        """Read the payload; the wrong length is a ProtocolError."""
        if len(payload) != cls.LAYOUT.size:
            raise ProtocolError(
                f"The device's {cls.__name__} payload has {len(payload)} bytes instead of {cls.LAYOUT.size}. "
                f"{_OTHER_VERSION}"
            )
        return cls(*cls.LAYOUT.unpack(payload))


@dataclass(frozen=True)
class Hello(Response):
    """What the device is. Sizes in bytes, `tick_hz` in ticks a second, names NUL-padded as received."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<16s16s9I32s16s16s24sI")
    model_digest: bytes
    schedule_digest: bytes
    payload_max: int
    arena_bytes: int
    input_bytes: int
    label_bytes: int
    output_bytes: int
    param_count: int
    schedule_steps: int
    steps_done: int
    tick_hz: int
    board: bytes
    tool_version: bytes
    port: bytes
    storage: bytes
    resumed_sequence: int
    """Of the checkpoint that was restored last, at boot or since; 0: none."""


def text(field: bytes) -> str:
    """Text of a NUL-padded field."""
    return field.split(b"\0", 1)[0].decode("utf-8", errors="replace")


@dataclass(frozen=True)
class TrainStep(Response):
    """What a training step gave: the loss as a float32 value, steps trained so far, duration in ticks."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<fIQ")
    loss: float
    steps_done: int
    ticks: int

    @property
    def loss_bits(self) -> str:
        """The loss's float32 bits in hex."""
        return float_bits(self.loss)


def float_bits(value: float) -> str:
    """Eight hex digits of a float32 value, the sign first."""
    return struct.pack(">f", value).hex()


@dataclass(frozen=True)
class InferDone(Response):
    """Duration of a forward run in ticks."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    ticks: int


@dataclass(frozen=True)
class DeviceStatus(Response):
    """Counters since reset; page and recompute counts are of the last training step; high waters in bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<9IiI")
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
    """Erase units of the storage device that were erased."""


@dataclass(frozen=True)
class Checkpointed(Response):
    """Sequence number of the checkpoint that was written."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<I")
    sequence: int


@dataclass(frozen=True)
class Restored(Response):
    """Sequence number of the checkpoint in use now, and the steps that had been trained then."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<II")
    sequence: int
    steps_done: int


@dataclass(frozen=True)
class Heartbeat(Response):
    """The device is at schedule step `step_index` of `steps_total`, `ticks` after it began."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIQ")
    step_index: int
    steps_total: int
    ticks: int


_PROFILE_HEAD = struct.Struct("<II")


def unpack_profile(payload: bytes) -> tuple[int, tuple[int, ...]]:
    """Read PROFILE's {u32 first, u32 count, u32 ticks[count]}: the first step's index, and ticks of each."""
    if len(payload) >= _PROFILE_HEAD.size:
        first, count = _PROFILE_HEAD.unpack_from(payload)
        if len(payload) == _PROFILE_HEAD.size + 4 * count:
            return first, struct.unpack_from(f"<{count}I", payload, _PROFILE_HEAD.size)
    raise ProtocolError(f"The device's PROFILE payload of {len(payload)} bytes is malformed. {_OTHER_VERSION}")
