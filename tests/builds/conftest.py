from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from poet_codegen.board import Board, load_board
from poet_codegen.platformio.skeleton import project_skeleton
from poet_codegen.resources import checkout_root

ROOT = checkout_root()
assert ROOT is not None, "these tests run from the checkout"


@pytest.fixture
def root() -> Path:
    assert ROOT is not None
    return ROOT


@pytest.fixture
def board() -> Board:
    return load_board("qemu_netduinoplus2")


@pytest.fixture
def arm_gcc() -> None:
    """Needs the Arm compiler: a reason to skip for a developer, a failure in CI."""
    if shutil.which("arm-none-eabi-gcc") is None:
        assert "CI" not in os.environ, "CI has no arm-none-eabi-gcc; 'make setup' installs it"
        pytest.skip("arm-none-eabi-gcc is not on PATH; 'make setup' installs it")


@pytest.fixture
def make_project(tmp_path: Path, root: Path) -> Callable[[Board, str], Path]:
    """A project with the hand-written model of the firmware's tests in place of generated code."""

    def make(board: Board, name: str = "project") -> Path:
        project = tmp_path / name
        files = project_skeleton(board)
        files["src/poet_model.c"] = (root / "tests/firmware/fake_model.c").read_bytes()
        for path, content in files.items():
            (project / path).parent.mkdir(parents=True, exist_ok=True)
            (project / path).write_bytes(content)
        return project

    return make
