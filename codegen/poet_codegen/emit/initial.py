"""Initial weights that flash has no room for: a checkpoint of no steps, which boot finds on storage."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from poet_codegen.board import PAGE_HEADER_BYTES, Board
from poet_codegen.code_budget import weights_fit
from poet_codegen.emit.frozen_pages import page_header
from poet_codegen.emit.layout import FROZEN, ROM, ParamRow
from poet_codegen.emit.pages import CHECKPOINT_HEADER_BYTES, Pages
from poet_codegen.graph import Array, Graph, Kind
from poet_codegen.lower import Home, Lowered

FILE = "initial.ckpt"
_MAGIC = 0x4B435450
"""Of firmware/src/checkpoint.c."""
_SECOND_PLACE = 1
"""Of the parameters' pages: the slot follows right behind it, so that both are one file."""


def on_storage(board: Board, graph: Graph, lowered: Lowered) -> frozenset[str]:
    """Parameters whose initial values flash has no room for."""
    params = [param for param in graph.params() if param.kind is not Kind.STATE]
    if weights_fit(board, sum(param.size_bytes for param in params)):
        return frozenset()
    return frozenset(param.name for param in params if lowered.home.get(param.name) is Home.STORAGE)


def address(pages: Pages) -> int:
    """Where on storage the file belongs."""
    return pages.storage_bytes - pages.address(pages.swap)


def initial_weights(
    model_digest: bytes, params: Sequence[ParamRow], weights: Mapping[str, Array], pages: Pages
) -> bytes:
    """The first slot of checkpoints, behind the pages that it holds where parameters have two places.

    Parameters without weights are zeros.
    """
    image = bytearray(pages.address(pages.swap))
    copied = bytearray()
    crcs = b""
    for row in params:
        if row.home in (ROM, FROZEN):
            continue
        data = (
            np.ascontiguousarray(weights[row.name], dtype="<f4").tobytes()
            if row.name in weights
            else bytes(row.size_bytes)
        )
        if row.home == Home.STORAGE.value and pages.swap:
            crcs += struct.pack("<I", zlib.crc32(data))
            at = row.at - pages.address(pages.homes_unit)
            image[at : at + PAGE_HEADER_BYTES] = page_header(data, address(pages) + at)
            image[at + PAGE_HEADER_BYTES : at + PAGE_HEADER_BYTES + row.size_bytes] = data
        else:
            copied += data
    head = struct.pack("<5I", _MAGIC, 1, 0, len(copied), zlib.crc32(copied)) + model_digest
    head += struct.pack("<3I", 0, _SECOND_PLACE if pages.swap else 0, zlib.crc32(crcs))
    head += struct.pack("<I", zlib.crc32(head))
    assert len(head) == CHECKPOINT_HEADER_BYTES
    return bytes(image + head + copied)
