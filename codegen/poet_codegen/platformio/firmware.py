"""Build a generated project with PlatformIO.

A build shares nothing with any other: it has its own core directory of stand-ins and its own workspace, in a folder
that goes away with it (unless the caller keeps one, for builds one after the other), and the finished firmware is
moved into place as a whole. So builds may run side by side, and after a failed one there is no firmware that could be
taken for its result.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from poet_codegen.board import Board
from poet_codegen.errors import ToolError
from poet_codegen.platformio.elf import Footprint, read_footprint, read_functions
from poet_codegen.platformio.standins import (
    check_platformio,
    environment,
    install_standins,
    missing_packages,
    user_core_dir,
)
from poet_codegen.platformio.tools import find_arm_gcc

Progress = Callable[[str], None]

BUILD_TIMEOUT_S = 900.0
_STEP = re.compile(r"^(Compiling|Archiving|Indexing|Linking|Building) (\S+)$")
_HASHED_LIB = re.compile(r"^lib[0-9a-f]+/")
_OVERFLOW = re.compile(r"region `(\w+)' overflowed by (\d+) bytes")
_DIAGNOSTIC = re.compile(r"(: (fatal )?error: |undefined reference|region `\w+' overflowed|^Error: )", re.IGNORECASE)


@dataclass(frozen=True)
class BuildResult:
    """A built firmware."""

    elf: Path
    footprint: Footprint
    largest_frame: tuple[str, int]
    """The function with the largest stack frame, and its bytes (the compiler's -fstack-usage)."""
    compiler: str
    """Where the compiler came from, for people."""


def build_firmware(
    project_dir: Path, board: Board, progress: Progress | None = None, workspace: Path | None = None
) -> BuildResult:
    """Build the PlatformIO project in `project_dir`; the firmware is left in `project_dir`/firmware.elf.

    Uses the Arm compiler on PATH through stand-ins, so that PlatformIO's registry is not asked; where
    there is no such compiler, the packages from the registry if they are all installed. `progress` is
    called with one line for each step. The whole output goes to `project_dir`/build.log. In a `workspace` that stays,
    only sources that changed since its last build are compiled again. Raises ToolError.
    """
    project_dir = project_dir.resolve()
    if not (project_dir / "platformio.ini").is_file():
        raise ToolError(f"{project_dir} has no platformio.ini. Make the project first: 'poet plan'.")
    if "$" in str(project_dir):
        raise ToolError(f"{project_dir}: PlatformIO cannot build in a path with a '$'. Choose a folder without.")
    elf = project_dir / "firmware.elf"
    elf.unlink(missing_ok=True)
    scratch = project_dir / ".pio"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=scratch) as folder:
        work = Path(folder)
        core_dir, compiler = _core_dir(workspace or work, project_dir, board)
        workspace_dir = (workspace or work) / "workspace"
        _run_platformio(project_dir, board, [], environment(core_dir, workspace_dir), progress)
        built = workspace_dir / "build" / board.name
        largest_frame = _largest_frame(built)
        (built / "firmware.elf").replace(elf)
    return BuildResult(elf, read_footprint(elf, board), largest_frame, compiler)


def upload_firmware(project_dir: Path, board: Board, progress: Progress | None = None) -> None:
    """Build with the registry's packages and flash a real board over its first upload protocol.

    Uploaders come from PlatformIO's registry only, so that its packages must be installed. Raises ToolError.
    """
    if not board.firmware.platformio.upload_protocols:
        raise ToolError(f"Board '{board.name}' has no upload protocol: it is emulated. 'poet flash' starts it in QEMU.")
    check_platformio()
    core_dir = user_core_dir()
    if missing := missing_packages(core_dir, board, upload=True):
        raise ToolError(
            f"Uploading to '{board.name}' needs packages that PlatformIO does not have in {core_dir}: "
            f"{', '.join(missing)}. Fetch them once, with a network: 'pio run -d {project_dir} -t upload'."
        )
    project_dir = project_dir.resolve()
    _run_platformio(project_dir, board, ["-t", "upload"], environment(core_dir, project_dir / ".pio"), progress)


def _core_dir(work: Path, project_dir: Path, board: Board) -> tuple[Path, str]:
    """The core directory to build with, and where its compiler comes from."""
    check_platformio()
    try:
        gcc = find_arm_gcc()
    except ToolError as error:
        core_dir = user_core_dir()
        if missing := missing_packages(core_dir, board):
            raise ToolError(
                f"{error} Or let PlatformIO fetch its own compiler, 'pio pkg install -d {project_dir}', and "
                f"build again (in {core_dir} are missing: {', '.join(missing)})."
            ) from error
        return core_dir, f"PlatformIO's packages in {core_dir}"
    core_dir = work / "core"
    install_standins(core_dir, [board])
    return core_dir, f"arm-none-eabi-gcc {gcc.version} ({gcc.path})"


def _run_platformio(
    project_dir: Path, board: Board, arguments: list[str], env: dict[str, str], progress: Progress | None
) -> None:
    command = [
        sys.executable,
        "-m",
        "platformio",
        "run",
        "-d",
        str(project_dir),
        "-e",
        board.name,
        *arguments,
    ]
    lines: list[str] = []
    log = project_dir / "build.log"
    with (
        log.open("w", encoding="utf-8") as record,
        subprocess.Popen(
            command,
            env=env,
            cwd=project_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process,
    ):
        timer = threading.Timer(BUILD_TIMEOUT_S, _end, (process,))
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                record.write(line)
                lines.append(line.rstrip())
                if progress is not None and (step := _STEP.match(line.strip())):
                    progress(f"{step[1]} {_short(step[2], board)}")
            code = process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            timed_out = not timer.is_alive()
            timer.cancel()
    if timed_out:
        raise ToolError(f"The build took longer than {BUILD_TIMEOUT_S:.0f} s and was ended; see {log}.")
    if code != 0:
        _explain_overflow(lines, board, Path(env["PLATFORMIO_WORKSPACE_DIR"]))
        said = [line for line in lines if _DIAGNOSTIC.search(line)] or lines[-8:]
        raise ToolError(
            f"PlatformIO failed with exit code {code}; the whole output is in {log}. " + "\n".join(said[:8])
        )


def _end(process: subprocess.Popen[str]) -> None:
    """Kill PlatformIO together with the SCons and compilers it started: they are its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _explain_overflow(lines: list[str], board: Board, workspace: Path) -> None:
    """Raise ToolError in the user's terms when the linker ran out of a memory region."""
    for line in lines:
        if match := _OVERFLOW.search(line):
            name, over = match[1], int(match[2])
            region = board.ram if name == "RAM" else board.flash
            remedy = (
                f"Plan again with --ram at least {over} bytes lower, or without --ram, which takes what is left."
                if name == "RAM"
                else _smaller_code(workspace, over)
            )
            raise ToolError(
                f"The firmware does not fit {board.name}: {name.lower()} needs {region.size_bytes + over} bytes"
                f"{', the stack of ' + str(board.stack_bytes) + ' included' if name == 'RAM' else ''}, and there are "
                f"{region.size_bytes}. {remedy}"
            )


def _smaller_code(workspace: Path, over_bytes: int) -> str:
    """What is large in flash, and what to do so that it takes `over_bytes` less."""
    sizes: dict[str, int] = {}
    for path in workspace.rglob("poet_*.o"):
        sizes |= read_functions(path)
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    code = sum(sizes.values())
    named = ", ".join(f"{name} {size}" for name, size in largest)
    smaller = f" with --code {code - over_bytes}, which takes smaller forms of kernels," if code > over_bytes else ""
    return (
        f"The model's code takes {code} of them; its largest functions are {named}. Plan again{smaller} with more RAM, "
        "which takes fewer tiles, or for a board with more flash."
    )


def _short(path: str, board: Board) -> str:
    """A path of the build without the folders in front: src/poet_model.o."""
    return _HASHED_LIB.sub("lib/", path.rpartition(f"/{board.name}/")[2])


def _largest_frame(built: Path) -> tuple[str, int]:
    """The largest stack frame among the .su files; each line is 'file.c:line:column:function TAB bytes
    TAB kind'."""
    largest = ("", 0)
    for path in sorted(built.rglob("*.su")):
        for line in path.read_text(encoding="utf-8").splitlines():
            where, size, _kind = line.split("\t")
            if int(size) > largest[1]:
                largest = (where.rpartition(":")[2], int(size))
    return largest
