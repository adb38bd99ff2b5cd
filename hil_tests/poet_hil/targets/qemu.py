"""The emulated board: qemu-system-arm with the device's UART on a TCP port."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from poet_hil.errors import TargetError, TargetMissing
from poet_hil.manifest import Build, Image
from poet_hil.process import Program
from poet_hil.storage_image import IMAGE_NAME, add_initial_weights
from poet_hil.targets.process import ProcessTarget

EXECUTABLE = "qemu-system-arm"
LOG_NAME = "qemu.log"
_CHUNK_BYTES = 1 << 20


def qemu_program(build: Build, more_arguments: Sequence[str] = ()) -> Program:
    """How to run a build's firmware in QEMU. TargetMissing without QEMU or firmware."""
    qemu = build.manifest.board.qemu
    if qemu is None:
        raise TargetError(
            f"The board {build.manifest.board.id} has no emulator. Give the port of a board, or plan for a qemu_ board."
        )
    executable = shutil.which(EXECUTABLE)
    if executable is None:
        raise TargetMissing(
            f"{EXECUTABLE} is not installed or not in PATH, and the emulated board {build.manifest.board.id} "
            f"needs it. Install it (Debian and Ubuntu: apt-get install qemu-system-arm, macOS: brew install "
            f"qemu) and try again."
        )
    firmware = build.firmware_elf
    if not firmware.is_file():
        raise TargetMissing(f"The firmware {firmware} is not there. Build it with `poet build`.")

    def argv(port: int) -> list[str]:
        # nodelay: the UART sends byte by byte, and each would wait for the acknowledgement of the one before.
        serial = f"tcp:127.0.0.1:{port},server=on,wait=off,nodelay=on"
        fixed = ["-display", "none", "-monitor", "none", "-parallel", "none", "-serial", serial]
        return [executable, "-machine", qemu.machine, *fixed, *qemu.args, *more_arguments, "-kernel", str(firmware)]

    def prepare(folder: Path) -> None:
        if qemu.image is not None:
            _make_image(folder / IMAGE_NAME, qemu.image)
        add_initial_weights(build, folder)

    return Program(f"QEMU {qemu.machine}", argv, prepare)


def _make_image(path: Path, image: Image) -> None:
    """Make the storage device's file, unless it is there already: what the device holds outlives a power cycle."""
    if path.exists() and path.stat().st_size == image.bytes:
        return
    with path.open("wb") as file:
        if image.fill == 0:
            file.truncate(image.bytes)
        else:
            for start in range(0, image.bytes, _CHUNK_BYTES):
                file.write(bytes([image.fill]) * min(_CHUNK_BYTES, image.bytes - start))


class QemuTarget(ProcessTarget):
    """The emulated board, from power-on at open() to power-off at close(); storage files are in `folder`.

    `more_arguments` go to QEMU, such as those that load a plugin.
    """

    def __init__(self, build: Build, folder: Path | None = None, more_arguments: Sequence[str] = ()) -> None:
        super().__init__(qemu_program(build, more_arguments), folder or build.run_dir, LOG_NAME)
