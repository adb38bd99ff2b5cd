"""COBS and CRC-32 against the Python packages that the host uses."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

from cobs import cobs

Unit = Callable[[list[tuple[str, bytes]]], list[bytes]]
FRAME, BAD = 1, 2
CAPACITY_BYTES = 64


def random_bytes(random_: random.Random, most: int) -> bytes:
    """Of any length, from hardly any zeros to nothing else."""
    zeros = random_.choice([0.0, 0.01, 0.3, 0.9, 1.0])
    size = random_.randrange(most)
    return bytes(0 if random_.random() < zeros else random_.randrange(1, 256) for _ in range(size))


def test_cobs_encodes_as_the_host_does(unit: Unit) -> None:
    random_ = random.Random(1)
    bodies = [random_bytes(random_, 600) for _ in range(400)]
    bodies += [b"\x01" * n for n in (253, 254, 255, 507, 508, 509)] + [b"\x01" * 254 + b"\0", b"\0", b""]
    assert unit([("e", body) for body in bodies]) == [cobs.encode(body) + b"\0" for body in bodies]


def expected_events(stream: bytes) -> bytes:
    events = b""
    *frames, _unfinished = stream.split(b"\0")
    for frame in filter(None, frames):
        try:
            body = cobs.decode(frame)
        except cobs.DecodeError:
            events += bytes([BAD])
            continue
        too_long = len(body) > CAPACITY_BYTES
        events += bytes([BAD]) if too_long else bytes([FRAME, len(body)]) + body
    return events


def test_cobs_decodes_streams_good_and_bad_as_the_host_does(unit: Unit) -> None:
    random_ = random.Random(2)
    streams = []
    for _ in range(400):
        stream = bytearray()
        for _ in range(random_.randrange(12)):
            stream += cobs.encode(random_bytes(random_, 90)) + b"\0" * random_.choice([1, 1, 1, 2])
        for _ in range(random_.choice([0, 0, 1, 4])):
            if stream:
                stream[random_.randrange(len(stream))] = random_.randrange(256)
        streams.append(bytes(stream))
    streams += [random_.randbytes(3000) for _ in range(50)]
    assert unit([("d", stream) for stream in streams]) == [expected_events(stream) for stream in streams]


def test_crc32_is_zlibs(unit: Unit) -> None:
    random_ = random.Random(3)
    messages = [random_.randbytes(random_.randrange(2000)) for _ in range(200)] + [b"", b"123456789"]
    assert unit([("c", m) for m in messages]) == [struct.pack("<I", zlib.crc32(m)) for m in messages]


def test_crc32_of_a_message_with_a_part_replaced(unit: Unit) -> None:
    random_ = random.Random(4)
    records, expected = [], []
    for _ in range(300):
        before, old = random_.randbytes(random_.randrange(300)), random_.randbytes(random_.randrange(1, 600))
        new, after = random_.randbytes(len(old)), random_.randbytes(random_.choice([0, 1, 7, 4096, 70001]))
        crcs = (zlib.crc32(before + old + after), zlib.crc32(old), zlib.crc32(new))
        records.append(("r", struct.pack("<4I", *crcs, len(after))))
        expected.append(struct.pack("<I", zlib.crc32(before + new + after)))
    assert unit(records) == expected
