"""`poet`: assembles the commands and turns errors into one paragraph and an exit code."""

from __future__ import annotations

import errno
import sys

import typer
from poet_hil.errors import LinkError
from poet_solver.errors import PoetError
from rich.markup import escape

from poet_codegen.cli import (
    board_commands,
    build_commands,
    checkpoint_commands,
    flash_commands,
    measure_command,
    profile_command,
    train_commands,
    verify_command,
)
from poet_codegen.cli.console import error_console

app = typer.Typer(
    name="poet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "Train neural networks on a microcontroller.\n\n"
        "An ONNX model and a board go in; firmware comes out that trains the model on the board, by a schedule of "
        "recomputation and paging that uses the least energy within the memory you give it.\n\n"
        "[b]In order:[/b] poet plan, poet build, poet flash, poet train, poet eval, poet verify. Each command works "
        "from what the one before left in the build folder (--dir, by default ./build)."
    ),
)
build_commands.register(app)
flash_commands.register(app)
train_commands.register(app)
checkpoint_commands.register(app)
verify_command.register(app)
profile_command.register(app)
measure_command.register(app)
board_commands.register(app)


_REMEDIES = {
    errno.ENOSPC: "Free space, and try again.",
    errno.EACCES: "Give access, and try again.",
    errno.EROFS: "Choose a folder that can be written with --dir, and try again.",
}
# What typer exits with on Ctrl-C.
_INTERRUPTED = 130


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except (PoetError, LinkError) as error:
        error_console().print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        remedy = _REMEDIES.get(error.errno or 0, "Check that path, and try again.")
        error_console().print(f"[bold red]Error:[/] {escape(what)}. {remedy}")
        sys.exit(1)
    except SystemExit as done:
        if done.code == _INTERRUPTED:
            hint = "`poet train --resume` goes on with a training run; other commands are simply run again."
            error_console().print(f"[bold]Interrupted.[/] {hint}")
        raise
