"""Errors of the code generator; each message is one paragraph: what, where, and the next action."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from poet_solver.errors import PoetError
from pydantic import ValidationError


class ModelError(PoetError):
    """The ONNX model cannot be used: corrupt, dynamic shapes, an unsupported op."""


class BoardError(PoetError):
    """A board is unknown, or its file is malformed."""


class CostsError(PoetError):
    """costs.json is missing or malformed."""


class ToolError(PoetError):
    """A program that poet-mcu calls (compiler, QEMU, PlatformIO) is missing or failed."""


def first_fault(error: ValidationError) -> str:
    """'field: what is wrong with it', of the first field of a file that is wrong."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "the file"
    return f"{field}: {first['msg']}"


def nearest_names(wanted: str, known: Iterable[str], count: int = 3) -> str:
    """Up to `count` names of `known` that resemble `wanted`, quoted, comma separated; all if none does."""
    names = sorted(known)
    lowered = {name.lower(): name for name in names}
    close = [lowered[name] for name in difflib.get_close_matches(wanted.lower(), lowered, n=count, cutoff=0.4)]
    return ", ".join(f"'{name}'" for name in close or names)
