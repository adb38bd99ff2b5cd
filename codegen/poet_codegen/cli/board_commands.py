"""`poet boards`, `poet doctor`: what there is to work with."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from poet_codegen.board import list_boards, load_board
from poet_codegen.cli.console import console
from poet_codegen.doctor import diagnose
from poet_codegen.platformio.standins import prepare_offline

_RUNS = {"qemu": "in QEMU", "serial": "at a serial port", "plan": "planning only"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="boards")(boards_command)
    app.command(name="doctor")(doctor_command)


def _memory(size_bytes: int) -> str:
    kib = size_bytes // 1024
    return f"{kib} KiB" if kib < 1 << 16 else f"{kib // 1024} MiB"


def boards_command() -> None:
    """List the boards, what they have, and how they run."""
    table = Table(box=None, pad_edge=False)
    for name in ("Board", "Core", "RAM", "Flash", "Storage", "Runs"):
        table.add_column(name, overflow="fold", no_wrap=name == "Board")
    for name in list_boards():
        board = load_board(name)
        table.add_row(
            name,
            f"{board.cpu.core} {board.cpu.clock_hz / 1e6:.0f} MHz",
            _memory(board.ram.size_bytes),
            _memory(board.flash.size_bytes),
            escape(", ".join(f"{storage.driver} ({storage.models})" for storage in board.storage_devices)),
            _RUNS[board.kind],
        )
    console().print(table)


def doctor_command(
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Prepare PlatformIO's core directory first, so that plain `pio run` builds where its registry cannot "
            "be reached: stand-ins around the Arm compiler on PATH, no telemetry, no update check.",
        ),
    ] = False,
) -> None:
    """Check what planning, building and running need, and say how to get what is missing."""
    if offline:
        boards = [board for board in map(load_board, list_boards()) if board.kind != "plan"]
        core_dir, written = prepare_offline(boards)
        what = (
            f"stand-ins for {', '.join(written)}"
            if written
            else "the registry's packages are there; nothing is missing"
        )
        console().print(
            f"[bold]{escape(str(core_dir))}[/]: {what}. `pio run -d build/project` builds without a network."
        )
    checks = diagnose()
    for check in checks:
        mark = "[green]ok  [/]" if check.ok else "[red]miss[/]"
        console().print(f"{mark} [bold]{escape(check.name)}[/]: {escape(check.detail)}")
        if not check.ok and check.fix:
            console().print(f"     {escape(check.fix)}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
