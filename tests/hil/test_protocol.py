from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import pytest
from cobs import cobs
from hypothesis import given
from hypothesis import strategies as st
from poet_hil import protocol
from poet_hil.errors import ProtocolError
from poet_hil.protocol import BadFrame, Command, Frame, Status, decode, encode, status_text

HEADERS = Path(__file__).parents[2] / "firmware" / "include" / "poet"

frames = st.builds(
    Frame,
    type=st.integers(0, 255),
    seq=st.integers(0, 65535),
    status=st.integers(-32768, 32767),
    payload=st.binary(max_size=protocol.PAYLOAD_BYTES),
    abi=st.integers(0, 255),
)


def constants(header: str) -> dict[str, int]:
    text = re.sub(r"/\*.*?\*/", "", (HEADERS / header).read_text(encoding="utf-8"), flags=re.S)
    found = re.findall(r"(?:#define\s+|^\s+)(POET_\w+)\s*=?\s*(-?(?:0x[0-9A-Fa-f]+|\d+))u?\b", text, flags=re.M)
    return {name: int(value, 0) for name, value in found}


def test_numbers_are_those_of_the_c_header() -> None:
    header = constants("protocol.h")
    assert header["POET_PROTOCOL_ABI"] == protocol.ABI
    assert header["POET_LINK_PAYLOAD_BYTES"] == protocol.PAYLOAD_BYTES
    assert header["POET_LINK_RESPONSE"] == protocol.RESPONSE
    overhead = header["POET_LINK_HEADER_BYTES"] + header["POET_LINK_CRC_BYTES"]
    assert overhead + protocol.PAYLOAD_BYTES == protocol.BODY_BYTES
    commands = {name.removeprefix("POET_CMD_"): v for name, v in header.items() if name.startswith("POET_CMD_")}
    commands["HEARTBEAT"] = header["POET_HEARTBEAT"]
    assert commands == {command.name: int(command) for command in Command}


def test_statuses_are_those_of_the_c_header_and_each_has_a_text() -> None:
    header = constants("status.h")
    statuses = {re.sub(r"^POET_(ERR_)?", "", name): value for name, value in header.items()}
    assert statuses == {status.name: int(status) for status in Status}
    texts = [status_text(status) for status in Status]
    assert len(set(texts)) == len(texts)
    assert "-77" in status_text(-77)


def test_payload_layouts_are_those_of_the_c_header() -> None:
    """The header's comments give each payload as {u32 name, ...}; the structs have those fields, in order."""
    text = (HEADERS / "protocol.h").read_text(encoding="utf-8")
    codes = {"u32": "I", "i32": "i", "u64": "Q", "f32": "f"}
    responses: dict[str, type[protocol.Response]] = {
        "POET_CMD_HELLO": protocol.Hello,
        "POET_CMD_TRAIN": protocol.TrainStep,
        "POET_CMD_INFER": protocol.InferDone,
        "POET_CMD_STATUS": protocol.DeviceStatus,
        "POET_CMD_CHECKPOINT": protocol.Checkpointed,
        "POET_CMD_RESTORE": protocol.Restored,
    }
    for command, response in responses.items():
        comment = text[: text.index(f"{command} =")].rpartition("/*")[2]
        fields = comment.partition("-> {")[2].partition("}")[0].replace("*", " ").split(",")
        layout, names = "<", []
        for field in fields:
            kind, name = field.split()[:2]
            name, _, size = name.partition("[")
            layout += f"{size[:-1]}s" if size else codes[kind]
            names.append(name)
        assert struct.calcsize(layout) == response.LAYOUT.size, command
        assert ["LAYOUT", *names] == list(response.__annotations__), command
        expanded = re.sub(r"(?<!\d)(\d+)([IiQf])", lambda m: m[2] * int(m[1]), response.LAYOUT.format)
        assert expanded == layout, command


@given(frames)
def test_a_frame_survives_the_wire(frame: Frame) -> None:
    wire = encode(frame)
    assert wire.endswith(b"\0") and wire.count(b"\0") == 1
    assert len(wire) <= protocol.FRAME_BYTES
    assert decode(wire[:-1]) == frame


def test_the_longest_frame_has_the_stated_length() -> None:
    wire = encode(Frame(0x21, 0x1234, 0x0101, b"\1" * protocol.PAYLOAD_BYTES))
    assert len(wire) == protocol.FRAME_BYTES


@given(st.binary(max_size=700))
def test_no_bytes_are_taken_for_a_frame_by_chance(data: bytes) -> None:
    with pytest.raises(BadFrame):
        decode(data)


@given(frames, st.data())
def test_a_changed_byte_is_noticed(frame: Frame, data: st.DataObject) -> None:
    wire = bytearray(encode(frame)[:-1])
    at = data.draw(st.integers(0, len(wire) - 1))
    wire[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadFrame):
        decode(bytes(wire))


@given(frames, st.data())
def test_a_cut_frame_is_noticed(frame: Frame, data: st.DataObject) -> None:
    wire = encode(frame)[:-1]
    with pytest.raises(BadFrame):
        decode(wire[: data.draw(st.integers(0, len(wire) - 1))])


def test_a_payload_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="513"):
        encode(Frame(Command.WRITE_INPUT, 1, payload=bytes(513)))
    with pytest.raises(BadFrame):
        decode(too_long_frame())


def too_long_frame() -> bytes:
    body = struct.pack("<BBHh", 1, 2, 3, 0) + bytes(513)
    return bytes(cobs.encode(body + struct.pack("<I", zlib.crc32(body))))


@pytest.mark.parametrize("payload", [b"", b"\0" * 15, b"\0" * 17])
def test_a_response_of_the_wrong_length_is_an_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="poet flash"):
        protocol.TrainStep.unpack(payload)


@pytest.mark.parametrize("payload", [b"", b"\0" * 7, struct.pack("<III", 0, 2, 5)])
def test_a_malformed_profile_is_an_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="PROFILE"):
        protocol.unpack_profile(payload)


def test_text_stops_at_the_first_nul_and_takes_any_bytes() -> None:
    assert protocol.text(b"board\0\0x") == "board"
    assert protocol.text(b"\xff\xfe") == "��"
