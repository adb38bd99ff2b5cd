"""Tiles on storage: whatever their shape and order, the page is what page-out writes; a flipped bit is found."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path

import pytest

from .line import ERR_CORRUPT, ERR_STORAGE_FULL

PAGE = 64
HEADER_BYTES = 16
ROWS, WIDTH = 13, 5
"""Bytes: a plane has ROWS rows of WIDTH."""


class Shape(ctypes.Structure):
    """poet_tile_t."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("run_bytes", "runs", "stride_bytes", "again_bytes")]


class Stream(ctypes.Structure):
    """poet_stream_t."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("address", "size_bytes", "begun_bytes", "sealed_crc")),
        *((name, ctypes.c_uint32) for name in ("seen_bytes", "in_order_bytes", "in_order_crc", "crc")),
    ]


def tiles(rng: random.Random, planes: int) -> list[tuple[int, Shape]]:
    """(offset, shape) of tiles that cover the tensor once: bands of rows of blocks of planes, in order or in any."""
    plane = ROWS * WIDTH
    found = []
    first = 0
    while first < planes:
        count = rng.randint(1, planes - first)
        top = 0
        while top < ROWS:
            rows = rng.randint(1, ROWS - top)
            again = 0 if top == 0 else rng.randint(0, top)
            at = first * plane + (top - again) * WIDTH
            found.append((at, Shape((rows + again) * WIDTH, count, plane, again * WIDTH)))
            top += rows
        first += count
    if rng.randrange(2):
        rng.shuffle(found)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_tiles_and_pages_are_the_same_bytes(page_library: ctypes.CDLL, page_storage: Path, seed: int) -> None:
    library, storage = page_library, page_storage
    rng = random.Random(seed)
    planes = rng.randint(1, 4)
    data = rng.randbytes(planes * ROWS * WIDTH)
    library.poet_stream.restype = Stream
    stream = library.poet_stream(PAGE, len(data))
    for offset, shape in tiles(rng, planes):
        offset += shape.again_bytes
        shape = Shape(shape.run_bytes - shape.again_bytes, shape.runs, shape.stride_bytes, 0)
        tile = ctypes.create_string_buffer(shape.run_bytes * shape.runs)
        library.poet_tile_gather(tile, data[offset:], ctypes.byref(shape))
        assert library.poet_stream_write(ctypes.byref(stream), tile, offset, ctypes.byref(shape)) == 0
    whole = ctypes.create_string_buffer(len(data))
    assert library.poet_page_in(PAGE, whole, len(data)) == 0
    assert whole.raw == data

    assert library.poet_page_out(PAGE, data, len(data)) == 0
    for _ in range(2):
        back = ctypes.create_string_buffer(len(data))
        status = [read_into(library, stream, back, *tile) for tile in tiles(rng, planes)]
        assert not any(status) and back.raw == data

    assert library.poet_storage_sync() == 0
    with storage.open("r+b") as file:
        file.seek(PAGE + HEADER_BYTES + rng.randrange(len(data)))
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1 << rng.randrange(8)]))
    assert library.poet_storage_init() == 0
    status = [read_into(library, stream, back, *tile) for tile in tiles(rng, planes)]
    assert not any(status[:-1]) and status[-1] == ERR_CORRUPT


def read_into(library: ctypes.CDLL, stream: Stream, back: ctypes.Array[ctypes.c_char], at: int, shape: Shape) -> int:
    tile = ctypes.create_string_buffer(shape.run_bytes * shape.runs)
    status = int(library.poet_stream_read(ctypes.byref(stream), tile, at, ctypes.byref(shape)))
    library.poet_tile_scatter(ctypes.byref(back, at), tile, ctypes.byref(shape))
    return status


NAN = b"\xff" * 4


@pytest.mark.parametrize("seed", range(6))
def test_tiles_are_read_ahead(page_library: ctypes.CDLL, page_storage: Path, seed: int) -> None:
    """While a tile counts, the next one is on its way: nothing of it is there before the wait."""
    library, rng = page_library, random.Random(seed)
    planes = rng.randint(1, 4)
    data = rng.randbytes(planes * ROWS * WIDTH)
    assert library.poet_page_out(PAGE, data, len(data)) == 0
    library.poet_stream.restype = Stream
    stream, back = library.poet_stream(PAGE, len(data)), ctypes.create_string_buffer(len(data))
    passes = [*tiles(rng, planes), *tiles(rng, planes)]
    buffers = [ctypes.create_string_buffer(shape.run_bytes * shape.runs) for _, shape in passes]

    def call(do: str, number: int) -> int:
        at, shape = passes[number]
        return int(
            getattr(library, f"poet_stream_{do}")(ctypes.byref(stream), buffers[number], at, ctypes.byref(shape))
        )

    assert call("start", 0) == 0
    for number, (at, shape) in enumerate(passes):
        assert buffers[number].raw.startswith(NAN[: shape.run_bytes])
        # Any other use of the device ends what is under way, as a wait does.
        if rng.random() < 0.5:
            assert library.poet_page_wait() == 0
        else:
            assert library.poet_page_read(PAGE, 0, ctypes.create_string_buffer(1), 1) == 0
        assert number + 1 == len(passes) or call("start", number + 1) == 0
        assert call("check", number) == 0
        library.poet_tile_scatter(ctypes.byref(back, at), buffers[number], ctypes.byref(shape))
    assert back.raw == data


def test_a_tile_that_nobody_waited_for_is_noticed(page_library: ctypes.CDLL, page_storage: Path) -> None:
    library, data = page_library, bytes(range(64))
    assert library.poet_page_out(PAGE, data, len(data)) == 0
    library.poet_stream.restype = Stream
    stream, shape = library.poet_stream(PAGE, len(data)), Shape(len(data), 1, 0, 0)
    tile = ctypes.create_string_buffer(data, len(data))
    arguments = (ctypes.byref(stream), tile, 0, ctypes.byref(shape))
    assert library.poet_stream_start(*arguments) == 0
    assert library.poet_stream_check(*arguments) == ERR_CORRUPT
    # Nothing is under way behind an error: what comes now is not written over.
    tile.raw = b"x" * len(data)
    assert library.poet_page_wait() == 0 and tile.raw == b"x" * len(data)


def test_errors_of_what_was_started_come_with_the_wait(page_library: ctypes.CDLL, page_storage: Path) -> None:
    library, tile = page_library, ctypes.create_string_buffer(8)
    there = 0x4000_0000 - HEADER_BYTES - 4
    assert library.poet_page_start(there, 0, tile, 8, 1, 0) == 0
    assert library.poet_page_wait() == ERR_STORAGE_FULL
    assert library.poet_page_wait() == 0
    assert library.poet_page_start(PAGE, 0, tile, 8, 1, 0) == 0
    assert library.poet_page_start(there, 0, tile, 8, 1, 0) == 0
    assert library.poet_storage_sync() == ERR_STORAGE_FULL
    assert library.poet_page_wait() == 0
