"""Every port compiles with every storage driver that its boards offer, without a warning."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from poet_codegen.board import Board, list_boards, load_board
from poet_codegen.platformio.flags import compile_flags
from poet_codegen.platformio.skeleton import port_parts

OFFERED = [
    (name, storage.driver)
    for name in list_boards()
    if load_board(name).port is not None
    for storage in load_board(name).storage_devices
]


def compile_port(board: Board, root: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Objects of the board's port and of the driver of its storage device."""
    firmware = root / "firmware"
    folders = [firmware / "port" / part for part in port_parts(board.firmware.port, board.name)]
    sources = [firmware / "storage" / f"{board.storage.driver}.c"]
    sources += [path for folder in folders for path in sorted(folder.glob("*.c"))]
    include = [f"-I{path}" for path in (firmware / "include", *folders)]
    command = ["arm-none-eabi-gcc", *compile_flags(board), *include, "-c", *map(str, sources)]
    return subprocess.run(command, cwd=target, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("arm_gcc")
@pytest.mark.parametrize(("name", "driver"), OFFERED)
def test_compiles_without_a_warning(name: str, driver: str, root: Path, tmp_path: Path) -> None:
    built = compile_port(load_board(name, storage=driver), root, tmp_path)
    assert (built.returncode, built.stderr) == (0, "")


@pytest.mark.usefixtures("arm_gcc")
def test_the_template_is_a_port(root: Path, tmp_path: Path) -> None:
    """Whoever copies it begins with something that compiles."""
    text = (root / "boards" / "qemu_lm3s6965.toml").read_text(encoding="utf-8")
    own = tmp_path / "own_board.toml"
    own.write_text(text.replace("qemu_lm3s6965", "own_board").replace('port = "lm3s"', 'port = "template"'))
    built = compile_port(load_board(str(own)), root, tmp_path)
    assert (built.returncode, built.stderr) == (0, "")
