"""Command-line quantities: '32K', '1M', '2y'."""

from __future__ import annotations

import re

import typer

from poet_codegen.folder import DAYS_A_YEAR

_UNITS = {"": 1, "K": 1024, "M": 1024 * 1024}
_DAYS = {"y": DAYS_A_YEAR, "d": 1.0, "h": 1.0 / 24.0}


def parse_days(text: str) -> float:
    """Days of '2y', '90d', '500h'. Raises typer.BadParameter."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([ydh])\s*", text, re.IGNORECASE)
    days = float(match[1]) * _DAYS[match[2].lower()] if match else 0.0
    if days <= 0:
        raise typer.BadParameter(f"{text!r} is no time span. Write it as 2y, 90d or 500h.")
    return days


def parse_size(text: str) -> int:
    """Bytes of '32768', '32K', '32KiB', '1.5M'. Raises typer.BadParameter."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KM]?)(?:i?B)?\s*", text, re.IGNORECASE)
    value = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if value < 1 or value != int(value):
        raise typer.BadParameter(f"{text!r} is no whole positive number of bytes. Write it as 32768, 32K or 1M.")
    return int(value)
