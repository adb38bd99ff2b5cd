"""PlatformIO without its registry: stand-ins for the packages a bare build asks for.

PlatformIO takes any folder in packages/ or platforms/ of its core directory for an installed package when it
has a package.json (platform.json) and a .piopm that names the right owner. tool-scons then is PyPI's SCons,
the toolchain whatever Arm compiler is on PATH, and the platform what boards/platformio/ has.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from poet_codegen.board import Board
from poet_codegen.errors import ToolError
from poet_codegen.platformio.tools import run_tool
from poet_codegen.resources import data_dir

PLATFORM_VERSIONS = {"ststm32": "19.0.0", "nordicnrf52": "10.0.0"}
"""What the stand-ins say they are; of the official platforms this major version is wanted."""
TOOLCHAIN = "toolchain-gccarmnoneeabi"
TOOLCHAIN_RANGE = ">=1.120201.0,<1.130000.0"
TOOLCHAIN_VERSION = "1.120201.0"
"""PlatformIO writes gcc 12.2.1 as 1.120201.0; left to itself the platform would take gcc 7."""

_STANDIN = "Stand-in for bare builds with the system's Arm compiler, written by poet-mcu"
_SCONS_SCRIPT = "from SCons.Script.Main import main\n\nmain()\n"


def check_platformio() -> None:
    """Raise ToolError when PlatformIO or SCons is missing from this Python."""
    for module, package in (("platformio", "platformio"), ("SCons", "scons")):
        if find_spec(module) is None:
            raise ToolError(
                f"The Python package '{package}' is missing, and firmware is built with it. Install it where "
                f"poet-mcu runs: 'pip install {package}'."
            )


def scons_version() -> str:
    """The version of tool-scons that the installed PlatformIO asks for, such as '4.41101.0'."""
    from platformio.dependencies import get_core_dependencies

    requirement: str = get_core_dependencies()["tool-scons"]
    return requirement.lstrip("~^=")


def install_standins(core_dir: Path, boards: Sequence[Board]) -> tuple[str, ...]:
    """Write the stand-ins for builds of `boards` into a PlatformIO core directory, which is made where there is none.

    Returns what was written. Packages of the registry that are there already stay as they are, and do.
    """
    check_platformio()
    written = []
    for name, version in (("tool-scons", scons_version()), (TOOLCHAIN, TOOLCHAIN_VERSION)):
        folder = core_dir / "packages" / name
        if _is_free(folder / "package.json"):
            _write_package(folder, name, version)
            written.append(name)
    if "tool-scons" in written:
        (core_dir / "packages" / "tool-scons" / "scons.py").write_text(_SCONS_SCRIPT)
    for platform in sorted({board.firmware.platformio.platform for board in boards}):
        folder = core_dir / "platforms" / platform
        if _is_free(folder / "platform.json"):
            _write_platform(folder, platform, [b for b in boards if b.firmware.platformio.platform == platform])
            written.append(platform)
    return tuple(written)


def prepare_offline(boards: Sequence[Board]) -> tuple[Path, tuple[str, ...]]:
    """Make plain `pio run` build without the registry: stand-ins in the user's core directory, and settings.

    Returns that directory and what was written. Raises ToolError when PlatformIO is missing.
    """
    core_dir = user_core_dir()
    written = install_standins(core_dir, boards)
    # Both would ask a server first, and wait for it.
    for setting, value in (("enable_telemetry", "no"), ("check_platformio_interval", "36500")):
        run_tool([sys.executable, "-m", "platformio", "settings", "set", setting, value])
    return core_dir, written


def environment(core_dir: Path, workspace_dir: Path) -> dict[str, str]:
    """The environment for running PlatformIO: its own directories, and no telemetry or upgrade check."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PLATFORMIO_")}
    return inherited | {
        "PLATFORMIO_CORE_DIR": str(core_dir),
        "PLATFORMIO_WORKSPACE_DIR": str(workspace_dir),
        "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no",
        "PLATFORMIO_DISABLE_UPGRADE_CHECK": "true",
        "PLATFORMIO_NO_ANSI": "true",
        "PYTHONUNBUFFERED": "1",
    }


def user_core_dir() -> Path:
    """The user's own PlatformIO core directory, where packages from the registry are."""
    configured = os.environ.get("PLATFORMIO_CORE_DIR")
    return Path(configured) if configured else Path.home() / ".platformio"


def missing_packages(core_dir: Path, board: Board, *, upload: bool = False) -> tuple[str, ...]:
    """Names of the registry's packages that a build (or an upload) for `board` needs and `core_dir` lacks.

    For an upload PlatformIO wants every uploader that the platform knows, whichever protocol is used, but
    J-Link's only where that is the one.
    """
    name = board.firmware.platformio.platform
    platform = _installed(core_dir / "platforms", name, "platform.json")
    wanted = [TOOLCHAIN, "tool-scons", *(["tool-sreccat"] if name == "nordicnrf52" else [])]
    if upload and platform is not None:
        packages: dict[str, dict[str, Any]] = json.loads(platform.read_text(encoding="utf-8"))["packages"]
        with_jlink = "jlink" in board.firmware.platformio.upload_protocols[:1]
        wanted += [
            tool
            for tool, entry in packages.items()
            if entry.get("type") == "uploader" and (tool != "tool-jlink" or with_jlink)
        ]
    missing = [tool for tool in wanted if _installed(core_dir / "packages", tool, "package.json") is None]
    return tuple(missing if platform is not None else [name, *missing])


def _installed(folder: Path, name: str, manifest: str) -> Path | None:
    """The manifest of an installed package, or None. A second version's folder is called NAME@VERSION."""
    candidates = [folder / name, *sorted(folder.glob(f"{name}@*"))]
    return next((path / manifest for path in candidates if (path / manifest).is_file()), None)


def _is_free(manifest: Path) -> bool:
    """Whether nothing is there, or an earlier stand-in."""
    return not manifest.is_file() or json.loads(manifest.read_text(encoding="utf-8")).get("description") == _STANDIN


def _write_package(folder: Path, name: str, version: str) -> None:
    _write_json(folder / "package.json", {"name": name, "version": version, "description": _STANDIN})
    _write_json(folder / ".piopm", _receipt("tool", name, version))


def _write_platform(folder: Path, platform: str, boards: Sequence[Board]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(data_dir("boards") / "platformio", folder, ignore=shutil.ignore_patterns("__pycache__"))
    _write_json(folder / "platform.json", _platform_manifest(platform))
    _write_json(folder / ".piopm", _receipt("platform", platform, PLATFORM_VERSIONS[platform]))
    for board in boards:
        _write_json(folder / "boards" / f"{board.firmware.platformio.board}.json", _board_manifest(board))


def _receipt(kind: str, name: str, version: str) -> dict[str, Any]:
    spec = {"owner": "platformio", "id": None, "name": name, "requirements": None, "uri": None}
    return {"type": kind, "name": name, "version": version, "spec": spec}


def _platform_manifest(name: str) -> dict[str, Any]:
    toolchain = {"type": "toolchain", "owner": "platformio", "version": TOOLCHAIN_RANGE}
    return {
        "name": name,
        "title": f"{name} (stand-in)",
        "description": _STANDIN,
        "version": PLATFORM_VERSIONS[name],
        "packages": {TOOLCHAIN: toolchain},
    }


def _board_manifest(board: Board) -> dict[str, Any]:
    return {
        "build": {
            "cpu": board.cpu.core,
            "f_cpu": f"{board.cpu.clock_hz}L",
            "mcu": board.firmware.platformio.board.lower(),
        },
        "debug": {"openocd_target": board.firmware.platformio.openocd_target},
        "frameworks": [],
        "name": board.title,
        "upload": {"maximum_ram_size": board.ram.size_bytes, "maximum_size": board.flash.size_bytes},
        "url": "https://platformio.org/boards",
        "vendor": "poet-mcu",
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
