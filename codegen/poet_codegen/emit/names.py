"""C names for the tensors and parameters of a model. Names from a model never reach C any other way."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST = 40


def c_names(wishes: Iterable[str]) -> dict[str, str]:
    """For every string a different C identifier in lower case that resembles it.

    Deterministic: depends on the strings and their order only.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for wish in wishes:
        stem = re.sub(r"[^a-z0-9]+", "_", wish.lower()).strip("_")[:_LONGEST].rstrip("_") or "tensor"
        names[wish] = free_name(f"t_{stem}" if stem[0].isdigit() else stem, taken)
    return names


def free_name(stem: str, taken: set[str]) -> str:
    """`stem`, with a number behind it when it is taken; takes it."""
    name = stem
    number = 2
    while name in taken:
        name = f"{stem}_{number}"
        number += 1
    taken.add(name)
    return name
