"""The set-up scripts, with stand-ins for apt-get, sudo and id that write down how they were called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from poet_codegen.doctor import Check, diagnose


class Machine:
    """A PATH with bash and what a test puts there."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        self.scripts = root / "scripts"
        self.bin.mkdir()
        for name in ("bash", "env", "dirname"):
            found = shutil.which(name)
            assert found is not None
            (self.bin / name).symlink_to(found)

    def program(self, name: str, body: str = "") -> None:
        path = self.bin / name
        path.write_text(f'#!{self.bin}/bash\necho "{name} $*" >>"{self.calls}"\n{body}\n')
        path.chmod(0o755)

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(self.bin)}
        command = [str(self.scripts / script), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def machine(tmp_path: Path, root: Path) -> Machine:
    return Machine(tmp_path, root)


ALL = "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm gcc libc6-dev"
INSTALL = f"apt-get install -y -q --no-install-recommends {ALL}"
SIMULATE = INSTALL.replace("apt-get", "apt-get --simulate")


def test_nothing_to_do_when_everything_is_there(machine: Machine) -> None:
    machine.program("arm-none-eabi-gcc", "echo /usr/lib/nano.specs")
    machine.program("qemu-system-arm")
    machine.program("cc")
    done = machine.run("system-packages")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_root_installs_without_sudo(machine: Machine) -> None:
    machine.program("id", "echo 0")
    machine.program("apt-get")
    assert machine.run("system-packages").returncode == 0
    assert machine.called() == ["id -u", SIMULATE, INSTALL]


def updated(machine: Machine) -> str:
    """Shell text that succeeds once the package lists were refreshed."""
    (machine.bin / "grep").symlink_to(shutil.which("grep") or "grep")
    return f'grep -q "^apt-get update" <{machine.calls}'


def test_a_user_installs_with_sudo_and_absent_lists_are_fetched(machine: Machine) -> None:
    machine.program("id", "echo 1000")
    machine.program("sudo", 'exec "$@"')
    machine.program("apt-get", updated(machine))
    assert machine.run("system-packages").returncode == 0
    update = "apt-get update -q"
    sudo = f"sudo env DEBIAN_FRONTEND=noninteractive {INSTALL}"
    assert machine.called() == ["id -u", SIMULATE, f"sudo {update}", update, sudo, INSTALL]


def test_old_lists_are_refreshed(machine: Machine) -> None:
    machine.program("id", "echo 0")
    machine.program("apt-get", f'[ "$1" = --simulate ] || {updated(machine)}')
    assert machine.run("system-packages").returncode == 0
    assert machine.called() == ["id -u", SIMULATE, INSTALL, "apt-get update -q", INSTALL]


def test_a_failing_installation_fails(machine: Machine) -> None:
    machine.program("id", "echo 0")
    machine.program("apt-get", "exit 100")
    assert machine.run("system-packages").returncode != 0


def test_without_sudo_or_apt_it_says_what_to_install(machine: Machine) -> None:
    done = machine.run("system-packages")
    assert done.returncode == 1
    assert ALL in done.stderr
    machine.program("id", "echo 1000")
    machine.program("apt-get")
    done = machine.run("system-packages")
    assert done.returncode == 1
    assert f"as root, run 'apt-get install --no-install-recommends {ALL}'" in done.stderr


def test_a_compiler_without_newlib_gets_newlib(machine: Machine) -> None:
    machine.program("arm-none-eabi-gcc", "echo nano.specs")
    machine.program("qemu-system-arm")
    machine.program("cc")
    machine.program("id", "echo 0")
    machine.program("apt-get")
    assert machine.run("system-packages").returncode == 0
    assert machine.called()[-1] == "apt-get install -y -q --no-install-recommends libnewlib-arm-none-eabi"


def test_make_venv_refuses_an_absent_or_old_python(machine: Machine, tmp_path: Path) -> None:
    folder = str(tmp_path / "venv")
    assert "'python9' is not on PATH" in machine.run("make-venv", "python9", folder).stderr
    machine.program("python3", "[ $1 = --version ] && echo Python 3.9.2; exit 1")
    done = machine.run("make-venv", "python3", folder)
    assert done.returncode == 1
    assert "Python 3.9.2 is too old" in done.stderr
    assert not Path(folder).exists()


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_doctor_finds_what_is_there() -> None:
    checks = by_name(diagnose())
    assert checks["Python"].ok and sys.executable in checks["Python"].detail
    for name in ("Python packages", "PlatformIO", "Boards"):
        assert checks[name].ok, checks[name]
    if "CI" in os.environ:
        for name in ("Arm compiler", "Host compiler", "QEMU"):
            assert checks[name].ok, checks[name]


def test_doctor_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = by_name(diagnose())
    for name, package in (
        ("Arm compiler", "gcc-arm-none-eabi"),
        ("Host compiler", "gcc libc6-dev"),
        ("QEMU", "qemu-system-arm"),
    ):
        assert not checks[name].ok
        assert package in checks[name].fix


def test_doctor_notices_an_old_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = tmp_path / "qemu-system-arm"
    qemu.write_text("#!/bin/sh\necho 'QEMU emulator version 2.0'\n")
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check = by_name(diagnose())["QEMU"]
    assert not check.ok
    assert "2.0 lacks " in check.detail and "netduinoplus2 (for qemu_netduinoplus2)" in check.detail
