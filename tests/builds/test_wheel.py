"""A wheel stands on its own: it has boards, templates and firmware, and works where there is no checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from poet_codegen.board import list_boards, load_board
from poet_codegen.errors import ToolError
from poet_codegen.platformio.skeleton import project_skeleton
from poet_codegen.resources import checkout_root, data_dir

USE = """
import json
from hashlib import sha256
from poet_codegen.board import list_boards, load_board
from poet_codegen.platformio.skeleton import project_skeleton
from poet_codegen.resources import checkout_root
from poet_codegen import resources
files = project_skeleton(load_board("qemu_netduinoplus2"))
print(json.dumps({
    "checkout": checkout_root() is not None,
    "where": resources.__file__,
    "boards": list_boards(),
    "skeleton": {name: sha256(data).hexdigest() for name, data in files.items()},
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = checkout_root()
    assert root is not None
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (found,) = target.glob("*.whl")
    return found


def test_wheel_carries_the_data_and_the_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    root = checkout_root()
    assert root is not None
    for folder in ("boards", "templates", "firmware"):
        for path in (root / folder).rglob("*"):
            if path.is_file() and path.name != ".gitkeep" and "__pycache__" not in path.parts:
                assert f"poet_codegen/_data/{path.relative_to(root).as_posix()}" in names
    for package in ("poet_codegen", "poet_solver", "poet_hil"):
        assert f"{package}/py.typed" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests/")]


def test_wheel_works_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", fresh], check=True)
    python = fresh / "bin/python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel]
    subprocess.run(install, check=True, capture_output=True)
    # The dependencies come from this environment. A path in a .pth file is added to sys.path, but .pth
    # files in it are not run: its editable install of the checkout stays out.
    (site,) = (fresh / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    done = subprocess.run([python, "-I", "-c", USE], cwd=tmp_path, check=True, capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert said["checkout"] is False
    assert said["where"].startswith(str(fresh))
    assert tuple(said["boards"]) == list_boards()
    here = project_skeleton(load_board("qemu_netduinoplus2"))
    assert said["skeleton"] == {name: sha256(data).hexdigest() for name, data in here.items()}
    assert (fresh / "bin/poet").is_file()
    assert (fresh / "bin/poet-solver").is_file()


def test_the_checkout_wins(root: Path) -> None:
    for name in ("boards", "templates", "firmware"):
        assert data_dir(name) == root / name  # type: ignore[arg-type]


def test_a_broken_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poet_codegen.resources._PACKAGE", tmp_path / "site-packages/poet_codegen")
    with pytest.raises(ToolError, match=r"folder 'boards' is missing.*install the package again"):
        data_dir("boards")
