"""Tiles on storage: whatever their shape and order, the page is what page-out writes; a flipped bit is found."""

from __future__ import annotations

import ctypes
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import FIRMWARE, WARNINGS
from .line import ERR_CORRUPT

PAGE = 64
HEADER_BYTES = 16
MODEL = """
#include <stddef.h>
#include "poet/model.h"
const poet_model_t poet_model = {.page_unit_bytes = 64, .page_units = 64, .page_window_units = 64};
"""
ROWS, WIDTH = 13, 5
"""Bytes: a plane has ROWS rows of WIDTH."""


class Shape(ctypes.Structure):
    """poet_tile_t."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("run_bytes", "runs", "stride_bytes", "again_bytes")]


class Stream(ctypes.Structure):
    """poet_stream_t."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("address", "size_bytes", "seen_bytes", "crc")]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("stream") / "stream.so"
    model = target.with_name("model.c")
    model.write_text(MODEL)
    sources = [FIRMWARE / "src" / f"{name}.c" for name in ("stream", "page", "erase", "crc32")]
    sources += [FIRMWARE / "storage" / "host_file.c", model]
    command = ["cc", *WARNINGS, "-fPIC", "-shared", f"-I{FIRMWARE / 'include'}", *map(str, sources), "-o", str(target)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(target))


@pytest.fixture
def storage(library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "storage.bin"
    monkeypatch.setenv("POET_STORAGE", str(path))
    assert library.poet_storage_init() == 0
    yield path
    assert library.poet_storage_sync() == 0


def tiles(rng: random.Random, planes: int) -> list[tuple[int, Shape]]:
    """(offset, shape) of tiles that cover the tensor once: bands of rows of blocks of planes, in any order."""
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
    rng.shuffle(found)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_tiles_and_pages_are_the_same_bytes(library: ctypes.CDLL, storage: Path, seed: int) -> None:
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
