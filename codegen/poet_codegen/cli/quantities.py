"""Command-line quantities: '32K', '1M', '2.0'."""

from __future__ import annotations

import re

import typer

_UNITS = {"": 1, "K": 1024, "M": 1024 * 1024}


def parse_size(text: str) -> int:
    """Bytes of '32768', '32K', '32KiB', '1.5M'. Raises typer.BadParameter."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KM]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not match:
        raise typer.BadParameter(f"{text!r} is no size. Write bytes or a unit: 32768, 32K, 1M.")
    value = float(match[1]) * _UNITS[match[2].upper()]
    if value != int(value) or value < 1:
        raise typer.BadParameter(f"{text!r} is no whole positive number of bytes.")
    return int(value)
