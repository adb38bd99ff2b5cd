"""`poet checkpoint`, `poet restore`: what a running device keeps of its training on its storage."""

from __future__ import annotations

from pathlib import Path

import typer
from poet_hil.manifest import load_build

from poet_codegen.cli.attach import attached
from poet_codegen.cli.build_commands import Folder
from poet_codegen.cli.console import console, dir_option, next_step


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="checkpoint")(checkpoint_command)
    app.command(name="restore")(restore_command)


def checkpoint_command(dir: Folder = Path("build")) -> None:
    """Commit parameters and step count to the device's storage.

    The two newest checkpoints are kept, so that power may be cut at any time. A device goes on from the newest good one
    when it boots; `poet train --checkpoint-every N` commits as it trains.
    """
    with attached(load_build(dir)) as device:
        sequence, steps_done = device.checkpoint(), device.hello().steps_done
    console().print(f"Checkpoint {sequence}: {steps_done} steps trained.")
    console().print(next_step(f"poet restore{dir_option(dir)}", "brings it back."))


def restore_command(dir: Folder = Path("build")) -> None:
    """Bring back the newest good checkpoint: parameters and step count."""
    with attached(load_build(dir)) as device:
        restored = device.restore()
    console().print(f"Checkpoint {restored.sequence} is back: {restored.steps_done} steps trained.")
    command = f"poet train{dir_option(dir)} --resume --data FILE.npz"
    console().print(next_step(command, "goes on with the run that it is of; give the options of that run."))
