"""Quantities and names as a report prints them: one unit convention, and names that can do no harm.

Bytes: B below 1 KiB, else KiB = 1024 B or MiB = 1024 KiB. Joules, seconds and watts: SI prefixes.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

_NARROW = "\u202f"
"""Narrow no-break space: between digit groups, and between a number and its unit."""
_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
_LONGEST_NAME = 72


def count(value: float) -> str:
    """A whole number with its digits in groups of three."""
    return f"{round(value):,}".replace(",", _NARROW)


def exact_bytes(value: int) -> str:
    """Bytes to the last one: '30 424 B'."""
    return f"{count(value)}{_NARROW}B"


def short_bytes(value: float) -> str:
    """Bytes to about three digits: '976 B', '29.7 KiB', '1.20 MiB'."""
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size:
            return f"{_digits(value / size)}{_NARROW}{unit}"
    return f"{count(value)}{_NARROW}B"


def percent(share: float) -> str:
    """A share as per cent, to about three digits; a small one is never printed as zero."""
    value = 100.0 * share
    if value == 0.0:
        return f"0{_NARROW}%"
    if abs(value) < 0.01:
        return f"<{_NARROW}0.01{_NARROW}%"
    return f"{_digits(value) if abs(value) < 100 else count(value)}{_NARROW}%"


def si(value: float, unit: str) -> str:
    """A quantity to four digits with the SI prefix that suits it: '6.337 mJ'."""
    return f"{Scale.of(value).number(value)}{_NARROW}{Scale.of(value).prefix}{unit}" if value else f"0{_NARROW}{unit}"


def _digits(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


@dataclass(frozen=True)
class Scale:
    """One SI prefix and one number of decimals for a column, so that its figures compare at a glance."""

    factor: float
    prefix: str
    decimals: int

    @staticmethod
    def of(largest: float) -> Scale:
        """The scale in which `largest` has four digits."""
        size = abs(largest)
        factor, prefix = next(((f, p) for f, p in _PREFIXES if size >= f), _PREFIXES[-1])
        if size == 0.0:
            factor, prefix = _PREFIXES[0]
        whole = max(0, math.floor(math.log10(size / factor))) if size else 0
        return Scale(factor, prefix, max(0, 3 - whole))

    def number(self, value: float) -> str:
        """The number without its unit; what is not zero but rounds to it is '<' the least printed."""
        text = f"{value / self.factor:.{self.decimals}f}"
        if value and float(text) == 0.0:
            return f"<{_NARROW}{10.0**-self.decimals:.{self.decimals}f}"
        return text


def shown(name: str, longest: int = _LONGEST_NAME) -> str:
    """A name from a model as one line of printable text of bounded length. Not escaped: Jinja does that.

    Control, format (bidirectional override, zero width) and surrogate characters are spelt as escapes, so that a name
    can neither break a line nor reorder or hide what stands beside it.
    """
    text = "".join(_spelt(char) if unicodedata.category(char)[0] in "CZ" and char != " " else char for char in name)
    if len(text) > longest:
        head = (longest - 1) * 2 // 3
        text = f"{text[:head]}…{text[head + len(text) - longest + 1 :]}"
    return text or "(no name)"


def _spelt(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def plotly_text(name: str, longest: int = 48) -> str:
    """A name for plotly's labels, which interpret tags (<b>, <a href>) and entities in text."""
    return shown(name, longest).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
