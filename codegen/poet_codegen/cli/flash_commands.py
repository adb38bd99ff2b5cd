"""`poet flash`, `poet stop`: firmware onto a device, or an emulated device started and ended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from poet_hil import launcher, storage_image
from poet_hil.errors import TargetMissing
from poet_hil.manifest import load_build
from poet_hil.targets.serial import SerialTarget
from rich.markup import escape

from poet_codegen.cli.attach import attached
from poet_codegen.cli.build_commands import Folder
from poet_codegen.cli.console import console, dir_option, error_console, next_step
from poet_codegen.folder import BuildFolder
from poet_codegen.platformio.firmware import upload_firmware


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="flash")(flash_command)
    app.command(name="stop")(stop_command)


def flash_command(
    dir: Folder = Path("build"),
    port: Annotated[
        str, typer.Option(help="Serial port of a real board: /dev/ttyACM0, COM3, rfc2217://host:port.")
    ] = "",
    upload: Annotated[
        bool, typer.Option(help="With --no-upload only the port is noted: the board has this firmware already.")
    ] = True,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the newest checkpoint on the device's storage, if there is one."),
    ] = False,
) -> None:
    """Put the firmware on the board; for an emulated board, start QEMU with it.

    A running emulation of this build folder is ended first. Training starts from the model's own weights, and the
    device's checkpoints of this model are forgotten, unless --resume is given.
    """
    folder = BuildFolder(dir)
    folder.need(folder.project / "firmware.elf", "poet build")
    build = load_build(dir)
    board = build.manifest.board
    if board.kind == "qemu" and (port or not upload):
        raise typer.BadParameter(f"--port and --no-upload are for real boards; {board.id} is emulated.")
    if board.kind != "qemu" and not port:
        raise TargetMissing(f"Board {board.id} needs its serial port: add --port, for example --port /dev/ttyACM0.")
    with error_console().status("Starting") as status:
        if board.kind == "qemu":
            launcher.stop(build)
            if build.manifest.initial is not None and not resume:
                storage_image.forget(build.run_dir)
            running = launcher.start_detached(build, kind="qemu")
        else:
            # Before anything is written: a port that is missing or busy would only show after the upload.
            with SerialTarget(port, board.baud):
                pass
            if upload:
                described = folder.read_request().load_board()
                upload_firmware(folder.project, described, lambda line: status.update(escape(line)))
            running = launcher.remember_port(build, port)
    with attached(build) as device:
        if not resume and build.manifest.initial is None:
            device.init()
        hello = device.hello()
    screen = console()
    screen.print(
        f"{escape(running.name)} answers: model {hello.model_digest.hex()[:12]}, {hello.steps_done} steps trained"
        + (f", from checkpoint {hello.resumed_sequence}." if hello.resumed_sequence else ".")
    )
    screen.print(next_step(f"poet train{dir_option(dir)} --data FILE.npz --epochs 3", "trains on it."))


def stop_command(dir: Folder = Path("build")) -> None:
    """End the emulated board of this build folder."""
    stopped = launcher.stop(load_build(dir))
    console().print("Stopped." if stopped else "Nothing was running.")
