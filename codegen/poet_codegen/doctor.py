"""What of poet-mcu's surroundings is there, and what to do about the rest. The command line prints it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from poet_solver.errors import PoetError
from serial.tools import list_ports

from poet_codegen.board import list_boards, load_board
from poet_codegen.platformio.standins import (
    check_platformio,
    missing_packages,
    scons_version,
    user_core_dir,
)
from poet_codegen.platformio.tools import QEMU_PACKAGE, apt_hint, find_arm_gcc, find_host_cc, run_tool

_DISTRIBUTION = "poet-mcu"


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    ok: bool
    detail: str
    """What was found."""
    fix: str = ""
    """What to do when `ok` is false."""


def diagnose() -> list[Check]:
    """Look at everything a plan, a build and a run need. Changes nothing; takes about a second."""
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("Python", _python),
        ("Python packages", _packages),
        ("Arm compiler", _arm_compiler),
        ("Host compiler", _host_compiler),
        ("QEMU", _qemu),
        ("PlatformIO", _platformio),
        ("Boards", _boards),
        ("Serial ports", _serial_ports),
    )
    return [_check(name, look) for name, look in checks]


class _FindingError(Exception):
    """Something is missing: what was found, and what to do."""

    def __init__(self, detail: str, fix: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fix = fix


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except _FindingError as finding:
        return Check(name, False, finding.detail, finding.fix)
    except PoetError as error:
        detail, _, fix = str(error).partition(". ")
        return Check(name, False, f"{detail}.", fix)


def _python() -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    return f"{version} ({sys.executable})"


def _packages() -> str:
    try:
        required = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError as error:
        raise _FindingError("poet-mcu itself is not installed.", "Run 'pip install -e .' in the checkout.") from error
    names = [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in required if "extra ==" not in line]
    missing = [name for name in names if not _is_installed(name)]
    if missing:
        raise _FindingError(f"missing: {', '.join(missing)}.", f"Run 'pip install {' '.join(missing)}'.")
    return f"{len(names)} of {len(names)} dependencies"


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _arm_compiler() -> str:
    compiler = find_arm_gcc()
    return f"gcc {compiler.version} with newlib-nano ({compiler.path})"


def _host_compiler() -> str:
    compiler = find_host_cc()
    return f"{compiler.version} ({compiler.path})"


def _qemu() -> str:
    path = shutil.which("qemu-system-arm")
    if path is None:
        raise _FindingError("qemu-system-arm is not on PATH.", apt_hint(QEMU_PACKAGE))
    found = re.search(r"version (\S+)", run_tool([path, "--version"]))
    version = found[1] if found else "of unknown version"
    machines = set(re.findall(r"^(\S+)", run_tool([path, "-machine", "help"]), re.MULTILINE))
    boards = [board for board in map(load_board, list_boards()) if board.qemu is not None]
    lacking = [f"{b.qemu.machine} (for {b.name})" for b in boards if b.qemu and b.qemu.machine not in machines]
    if lacking:
        raise _FindingError(f"QEMU {version} lacks {', '.join(lacking)}.", "Install QEMU 7.2 or newer.")
    return f"{version} with {', '.join(b.qemu.machine for b in boards if b.qemu)} ({path})"


def _platformio() -> str:
    check_platformio()
    core_dir = user_core_dir()
    packages = f"stand-ins for tool-scons {scons_version()}, the toolchain and the platform"
    boards = [board for board in map(load_board, list_boards()) if board.kind != "plan"]
    if any(not missing_packages(core_dir, board) for board in boards):
        packages += f"; the registry's packages are in {core_dir}"
    return f"{metadata.version('platformio')} with SCons {metadata.version('scons')}; {packages}"


def _boards() -> str:
    return ", ".join(load_board(name).name for name in list_boards())


def _serial_ports() -> str:
    ports = sorted(port.device for port in list_ports.comports())
    barred = [port for port in ports if not os.access(port, os.R_OK | os.W_OK)]
    if barred:
        raise _FindingError(
            f"no permission for {', '.join(barred)}.",
            "Join the port's group, on Debian 'sudo usermod -aG dialout $USER', and log in again.",
        )
    return ", ".join(ports) or "none (emulated boards need none)"
