"""Line breaks in generated C: names of shapes make signatures and comments longer than a reader's window."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 110


def wrap_call(head: str, arguments: Sequence[str], column: int, tail: str = "") -> str:
    """`head(arguments)tail` that starts at `column`, broken after commas; the first line is not indented."""
    lines = [f"{' ' * column}{head}("]
    pad = " " * len(lines[0])
    for position, argument in enumerate(arguments):
        cell = argument + ("" if position == len(arguments) - 1 else ",")
        if position and len(lines[-1]) + len(cell) + len(" )") + len(tail) > WIDTH:
            lines.append(pad + cell)
        else:
            lines[-1] += (" " if position else "") + cell
    return "\n".join(lines).lstrip() + ")" + tail


def wrap_kernel(source: str) -> str:
    """A rendered kernel with its signature and its comment's lines within the width."""
    lines: list[str] = []
    for line in source.splitlines():
        if len(line) > WIDTH and line.startswith("void "):
            head, _, rest = line.partition("(")
            lines += wrap_call(head, rest.removesuffix(")").split(", "), 0).split("\n")
        elif len(line) > WIDTH and line.startswith(" * "):
            lines += textwrap.wrap(line, WIDTH, subsequent_indent=" * ", break_long_words=False)
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def prototype(source: str) -> str:
    """The declaration of a kernel that wrap_kernel returned."""
    start = source.index("void ") if source.startswith("void ") else source.index("\nvoid ") + 1
    return source[start : source.index("\n{", start)] + ";"
