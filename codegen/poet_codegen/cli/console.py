"""How the command line looks: consoles, tables, units."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def console() -> Console:
    """Where results go."""
    return Console(highlight=False)


def error_console() -> Console:
    """Where errors and progress go."""
    return Console(stderr=True, highlight=False)


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """A table of two columns; the second wraps in a narrow terminal."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def next_step(command: str, why: str) -> str:
    """The closing line of a command."""
    return f"Next: [bold cyan]{escape(command)}[/] {why}"


def dir_option(folder: Path) -> str:
    """' --dir X' where X is not the default, for suggested commands."""
    return "" if folder == Path("build") else f" --dir {shlex.quote(str(folder))}"


def size(value: int) -> str:
    """Bytes for people: '28.5 KiB (29,184 bytes)'."""
    if value < 1024:
        return f"{value} bytes"
    unit, scale = ("MiB", 1024 * 1024) if value >= 1024 * 1024 else ("KiB", 1024)
    return f"{value / scale:.1f} {unit} ({value:,} bytes)"


def si(value: float, unit: str) -> str:
    """A figure with an SI prefix: '6.24 mJ'."""
    for factor, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")):
        if value >= factor:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"0 {unit}" if value == 0 else f"{value:.3g} {unit}"
