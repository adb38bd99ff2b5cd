"""Command-line quantities: '32K', '1M', '2.0'."""

from __future__ import annotations

import re

import typer

_UNITS = {"": 1, "K": 1024, "M": 1024 * 1024}


def parse_size(text: str) -> int:
    """Bytes of '32768', '32K', '32KiB', '1.5M'. Raises typer.BadParameter."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KM]?)(?:i?B)?\s*", text, re.IGNORECASE)
    value = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if value < 1 or value != int(value):
        raise typer.BadParameter(f"{text!r} is no whole positive number of bytes. Write it as 32768, 32K or 1M.")
    return int(value)
