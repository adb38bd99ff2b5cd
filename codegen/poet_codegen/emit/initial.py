"""Initial weights that flash has no room for: a checkpoint of no steps, which boot finds on storage."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping

import numpy as np

from poet_codegen.emit.pages import CHECKPOINT_HEADER_BYTES
from poet_codegen.graph import Array

FILE = "initial.ckpt"
_MAGIC = 0x4B435450
"""Of firmware/src/checkpoint.c."""


def initial_checkpoint(model_digest: bytes, params: Iterable[tuple[str, int]], weights: Mapping[str, Array]) -> bytes:
    """Header and data of a slot: the parameters that are not in flash as (name, bytes), those without weights zeros."""
    data = b"".join(
        np.ascontiguousarray(weights[name], dtype="<f4").tobytes() if name in weights else bytes(size)
        for name, size in params
    )
    head = struct.pack("<5I", _MAGIC, 1, 0, len(data), zlib.crc32(data)) + model_digest
    head += struct.pack("<I", zlib.crc32(head))
    assert len(head) == CHECKPOINT_HEADER_BYTES
    return head + data
