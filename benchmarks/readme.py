"""README's tables of figures: each is between `<!-- make NAME -->` and `<!-- end -->`, and `make NAME` writes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """A table; with `numbers` all columns but the first stand right."""
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    return f"{line(head)}|{'|'.join(rule)}|\n{''.join(map(line, rows))}"


def line(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |\n"


def with_table(command: str, text: str, readme: str) -> str:
    """The README with `text` between the marks of `make COMMAND`."""
    place = re.compile(rf"(<!-- make {command} -->\n).*?(<!-- end -->)", re.DOTALL)
    assert place.search(readme), f"README.md has no place for the table of make {command}"
    return place.sub(lambda found: found[1] + text + found[2], readme)


def write_table(command: str, text: str) -> None:
    """Put it there."""
    README.write_text(with_table(command, text, README.read_text(encoding="utf-8")), encoding="utf-8")
