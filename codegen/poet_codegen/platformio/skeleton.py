"""The files of a generated project that do not depend on the model: PlatformIO's settings and the runtime."""

from __future__ import annotations

import tomllib
from pathlib import Path

from poet_codegen.board import Board
from poet_codegen.errors import BoardError
from poet_codegen.platformio.flags import compile_flags, link_flags
from poet_codegen.platformio.standins import PLATFORM_VERSIONS, TOOLCHAIN, TOOLCHAIN_RANGE
from poet_codegen.render import render
from poet_codegen.resources import data_dir

HOST_STORAGE = "host_file"
"""The storage driver of the host build."""
_OVERLAPS = b"POET_STORAGE_OVERLAPS"
"""What a driver looks at that can read while the core computes."""
CORE_PORT = "cortexm"
"""The part that all ports but the host's share: start-up, ticks, the linker script."""

_LIBRARY = "lib/poet"


def project_skeleton(board: Board) -> dict[str, bytes]:
    """Files of a project for `board`, by path relative to the project, in sorted order.

    platformio.ini and its script; lib/poet: the runtime, the board's port and storage driver; host/src:
    the port and the storage driver of the host build. Raises BoardError when the firmware has no such
    port or driver.
    """
    firmware = data_dir("firmware")
    target = board.firmware
    parts = port_parts(target.port, board.name)
    files = {
        "platformio.ini": render(
            "project/platformio.ini.j2",
            board=board,
            firmware=target,
            platform=f"platformio/{target.platformio.platform}@^{PLATFORM_VERSIONS[target.platformio.platform]}",
            toolchain=f"platformio/{TOOLCHAIN}@{TOOLCHAIN_RANGE}",
            linker_script=f"{_LIBRARY}/port/{CORE_PORT}/link.ld",
            compile_flags=(*compile_flags(board), *(f"-I{_LIBRARY}/port/{part}" for part in parts)),
            link_flags=link_flags(board),
        ).encode(),
        "scripts/poet_link.py": (data_dir("templates") / "project/scripts/poet_link.py").read_bytes(),
        f"{_LIBRARY}/library.json": (firmware / "library.json").read_bytes(),
    }
    for part in ("include", "src"):
        files |= _tree(firmware, Path(part), _LIBRARY)
    for part in parts:
        files |= _tree(firmware, Path("port") / part, _LIBRARY)
    driver = _driver(firmware, board.storage.driver, _LIBRARY, board.name)
    if board.storage.overlaps and not any(_OVERLAPS in source for source in driver.values()):
        raise BoardError(
            f"Board '{board.name}' says that its storage overlaps with computing, but the driver "
            f"'{board.storage.driver}' waits for every byte. Leave 'overlaps' out of the board's file, or give the "
            "driver what poet/storage.h says of it."
        )
    files |= driver
    files |= _tree(firmware, Path("port/host"), "host/src")
    files |= _driver(firmware, HOST_STORAGE, "host/src", board.name)
    return dict(sorted(files.items()))


def port_parts(port: str, board: str) -> tuple[str, ...]:
    """Folders of firmware/port that a port is made of: its own, then those that its port.toml shares.

    Raises BoardError when there is no such port.
    """
    ports = data_dir("firmware") / "port"
    known = sorted(path.parent.name for path in ports.glob("*/port.toml"))
    if port not in known:
        raise BoardError(
            f"Board '{board}' wants the port '{port}', which the firmware does not have; it has "
            f"{', '.join(known)}. Correct 'port' in the board's file, or add that port."
        )
    shares: list[str] = tomllib.loads((ports / port / "port.toml").read_text(encoding="utf-8"))["shares"]
    return (port, *shares)


def _driver(firmware: Path, driver: str, target: str, board: str) -> dict[str, bytes]:
    sources = sorted((firmware / "storage").glob(f"{driver}.[ch]"))
    if not sources:
        known = sorted(path.stem for path in (firmware / "storage").glob("*.c"))
        raise BoardError(
            f"Board '{board}' wants the storage driver '{driver}', which the firmware does not have; it has "
            f"{', '.join(known)}. Correct the field 'driver' of the board's file, or add the driver."
        )
    return {f"{target}/storage/{path.name}": path.read_bytes() for path in sources}


def _tree(firmware: Path, part: Path, target: str) -> dict[str, bytes]:
    paths = sorted(path for path in (firmware / part).rglob("*") if path.is_file() and path.suffix != ".toml")
    return {f"{target}/{path.relative_to(firmware).as_posix()}": path.read_bytes() for path in paths}
