"""The part of the storage image that never changes: pages of frozen parameters that flash has no room for."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from poet_codegen.board import PAGE_HEADER_BYTES
from poet_codegen.emit.layout import FROZEN, ParamRow
from poet_codegen.emit.pages import Pages
from poet_codegen.graph import Array

FROZEN_FILE = "frozen.bin"


def page_header(data: bytes, address: int) -> bytes:
    """Of a page of turn 0 (firmware/src/page.c)."""
    head = struct.pack("<3I", zlib.crc32(data), len(data), 0)
    return head + struct.pack("<I", zlib.crc32(head + struct.pack("<I", address)))


def frozen_pages(
    params: Sequence[ParamRow], tables: frozenset[str], weights: Mapping[str, Array], pages: Pages
) -> bytes:
    """From `pages.frozen_at` on. Rows of `tables` have CRCs behind the page's data (poet_page_rows)."""
    image = bytearray()
    for row in params:
        if row.home != FROZEN:
            continue
        data = np.ascontiguousarray(weights[row.name], dtype="<f4").tobytes()
        image += bytes(row.at - pages.frozen_at - len(image))
        image += page_header(data, row.at) + data
        if row.name in tables:
            size = len(data) // row.shape[0]
            rows = (data[at : at + size] for at in range(0, len(data), size))
            image += b"".join(struct.pack("<I", zlib.crc32(r + struct.pack("<I", n))) for n, r in enumerate(rows))
    assert len(image) > PAGE_HEADER_BYTES
    return bytes(image)
