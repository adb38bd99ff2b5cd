from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poet_hil import launcher, process
from poet_hil.device import DeviceClient
from poet_hil.errors import DigestMismatch, SessionError, TargetBusy, TargetDied, TargetError, TargetMissing
from poet_hil.link import Link
from poet_hil.manifest import Build, load_build
from poet_hil.process import Program
from poet_hil.protocol import Command
from poet_hil.targets.host import HostTarget
from poet_hil.targets.qemu import qemu_program

MakeBuild = Callable[..., Build]
X = np.ones((1, 1, 4, 4), np.float32)


@pytest.fixture
def build(make_build: MakeBuild) -> Iterator[Build]:
    build = make_build()
    yield build
    with contextlib.suppress(TargetError):
        launcher.stop(build)


def train_once(build: Build) -> int:
    with launcher.attach(build) as target:
        client = DeviceClient(Link(target), build.manifest)
        client.hello()
        client.write_sample(X, 1)
        return client.train(0.5).steps_done


def test_a_target_outlives_sessions_and_ends_on_request(build: Build) -> None:
    running = launcher.start_detached(build, kind="host")
    assert launcher.find(build) == running
    assert [path.name for path in build.run_dir.glob("target.json*")] == ["target.json"]
    assert [train_once(build), train_once(build)] == [1, 2]
    assert launcher.stop(build)
    assert not running.alive()
    assert launcher.find(build) is None
    assert not launcher.stop(build)


def test_a_target_outlives_the_command_that_started_it(build: Build) -> None:
    script = (
        "import sys; from pathlib import Path; from poet_hil import launcher; "
        "from poet_hil.manifest import load_build; "
        "launcher.start_detached(load_build(Path(sys.argv[1])), kind='host')"
    )
    subprocess.run([sys.executable, "-c", script, str(build.run_dir.parent)], check=True, timeout=600)
    assert train_once(build) == 1
    assert launcher.stop(build)


def test_it_is_not_started_twice(build: Build) -> None:
    running = launcher.start_detached(build, kind="host")
    with pytest.raises(TargetBusy, match=rf"process {running.pid}.*poet stop"):
        launcher.start_detached(build, kind="host")
    assert running.alive()


def test_nothing_started_is_an_error(build: Build) -> None:
    with pytest.raises(TargetMissing, match="poet flash"):
        launcher.attach(build)


def test_a_target_that_ended_is_noticed_and_replaced(build: Build) -> None:
    running = launcher.start_detached(build, kind="host")
    assert running.pid is not None
    os.kill(running.pid, signal.SIGKILL)
    wait_for(lambda: not running.alive())
    with pytest.raises(TargetDied, match=r"has ended\. .*host\.log.*poet flash"):
        launcher.attach(build)
    assert launcher.start_detached(build, kind="host").pid != running.pid


def test_another_process_with_the_same_id_is_left_alone(build: Build) -> None:
    launcher.start_detached(build, kind="host")
    launcher.stop(build)
    other = subprocess.Popen(["sleep", "600"])
    try:
        state = launcher.Running(
            kind="host",
            name="the host",
            url="socket://127.0.0.1:1",
            baud=1,
            pid=other.pid,
            started="long ago",
            log="host.log",
            manifest_sha256=build.manifest_sha256,
        )
        (build.run_dir / launcher.STATE_NAME).write_text(state.model_dump_json())
        with pytest.raises(TargetDied):
            launcher.attach(build)
        assert not launcher.stop(build)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_build_made_anew_needs_flashing(build: Build, make_build: MakeBuild, manifest_data: dict[str, Any]) -> None:
    launcher.start_detached(build, kind="host")
    newer = make_build({**manifest_data, "model_digest": "0" * 32})
    with pytest.raises(DigestMismatch, match="poet flash"):
        launcher.attach(newer)


def test_a_second_session_finds_it_busy(build: Build) -> None:
    launcher.start_detached(build, kind="host")
    with launcher.attach(build), pytest.raises(TargetBusy, match="another poet command"):
        launcher.attach(build).open()
    assert train_once(build) == 1


def test_a_target_that_dies_in_a_session_is_reported_with_its_log(build: Build) -> None:
    running = launcher.start_detached(build, kind="host")
    assert running.pid is not None
    with launcher.attach(build) as target:
        link = Link(target)
        link.request(Command.HELLO)
        os.kill(running.pid, signal.SIGKILL)
        with pytest.raises(TargetDied, match=rf"process {running.pid} has ended"):
            for _ in range(100):
                link.request(Command.STATUS)


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', "\xff"])
def test_a_damaged_state_file_is_an_error(build: Build, text: str) -> None:
    build.run_dir.mkdir()
    (build.run_dir / launcher.STATE_NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(TargetError, match=r"target\.json .*Delete it"):
        launcher.attach(build)


def test_a_board_on_a_port_is_remembered(build: Build) -> None:
    launcher.remember_port(build, "/dev/ttyNOWHERE9")
    target = launcher.attach(build)
    with pytest.raises(TargetMissing, match="/dev/ttyNOWHERE9"):
        target.open()
    assert not launcher.stop(build)
    assert launcher.find(build) is None


def test_an_early_exit_shows_code_and_output(make_build: MakeBuild) -> None:
    build = make_build(script="echo cannot find my memory >&2; exit 3")
    with pytest.raises(TargetDied, match=r"exit code 3 as soon as .*host\.log: cannot find my memory"):
        launcher.start_detached(build, kind="host")
    assert launcher.find(build) is None


def test_a_program_that_never_listens_is_ended(make_build: MakeBuild, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = process._popen

    def noted(*arguments: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments))
        return started[-1]

    monkeypatch.setattr(process, "_popen", noted)
    with pytest.raises(TargetDied, match=r"did not open its port .* within 0\.5 s"):
        launcher.start_detached(make_build(script="exec sleep 600"), kind="host", timeout_s=0.5)
    assert [child.poll() is None for child in started] == [False]


def test_a_port_that_was_taken_meanwhile_is_replaced(make_build: MakeBuild, tmp_path: Path) -> None:
    first = f"if [ ! -e '{tmp_path}/tried' ]; then touch '{tmp_path}/tried'; echo Address in use; exit 1; fi"
    build = make_build()
    program = build.host_executable
    program.write_text(program.read_text().replace("#!/bin/sh", f"#!/bin/sh\n{first}"))
    launcher.start_detached(build, kind="host")
    assert train_once(build) == 1
    launcher.stop(build)


def test_what_ignores_the_request_to_end_is_killed() -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    stubborn = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    assert not process.end(stubborn.pid, timeout_s=0.2)
    assert stubborn.wait() == -signal.SIGKILL
    stubborn.stdout.close()
    assert process.end(stubborn.pid, timeout_s=0.2)


@pytest.mark.skipif(shutil.which("ps") is None, reason="ps is not installed")
def test_a_process_is_told_from_others_without_proc_too() -> None:
    ps = str(shutil.which("ps"))
    sleeper = subprocess.Popen(["sleep", "600"])
    started = process._identity_from_ps(sleeper.pid, ps)
    assert started is not None and process._identity_from_ps(sleeper.pid, ps) == started
    sleeper.kill()
    wait_for(lambda: process._identity_from_ps(sleeper.pid, ps) is None)
    sleeper.wait()
    assert process._identity_from_ps(sleeper.pid, ps) is None


def test_a_host_target_power_cycles(build: Build) -> None:
    with HostTarget(build) as target:
        client = DeviceClient(Link(target), build.manifest)
        client.write_sample(X, 1)
        client.train(0.5)
        target.reset()
        assert client.hello().steps_done == 0
        pid = target._process.pid if target._process else 0
    assert process.identity(pid) is None


def test_missing_firmware_is_an_error(build: Build) -> None:
    build.host_executable.unlink()
    with pytest.raises(TargetMissing, match="poet build"):
        HostTarget(build)


def test_missing_qemu_or_firmware_is_an_error(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(TargetMissing, match="apt-get install qemu-system-arm"):
        qemu_program(build)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    with pytest.raises(TargetMissing, match=r"firmware\.elf is not there.*poet build"):
        qemu_program(build)


def test_qemu_gets_the_machine_and_arguments_of_the_manifest(
    make_build: MakeBuild, manifest_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest_data["board"]["qemu"]["args"] = ["-semihosting-config", "enable=on,target=native"]
    build = make_build(manifest_data)
    build.firmware_elf.touch()
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    program: Program = qemu_program(build)
    argv = program.argv(1234)
    assert argv[:3] == ["/bin/qemu-system-arm", "-machine", "netduinoplus2"]
    assert argv[argv.index("-serial") + 1].startswith("tcp:127.0.0.1:1234,server=on,wait=off")
    assert "enable=on,target=native" in argv and argv[-1] == str(build.firmware_elf)


@pytest.mark.parametrize("fill", [0x00, 0xFF])
def test_a_storage_device_has_an_image_that_outlives_qemu(
    fill: int, make_build: MakeBuild, manifest_data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (1 << 20) + 512
    manifest_data["board"]["qemu"]["image"] = {"bytes": size, "fill": fill}
    build = make_build(manifest_data)
    build.firmware_elf.touch()
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    program = qemu_program(build)
    image = tmp_path / "poet_storage.bin"
    program.prepare(tmp_path)
    assert image.read_bytes() == bytes([fill]) * size
    with image.open("r+b") as file:
        file.write(b"kept")
    program.prepare(tmp_path)
    assert image.read_bytes()[:5] == b"kept" + bytes([fill])
    image.write_bytes(b"the image of another board")
    program.prepare(tmp_path)
    assert image.read_bytes() == bytes([fill]) * size


def test_a_board_without_emulator_is_an_error(make_build: MakeBuild, manifest_data: dict[str, Any]) -> None:
    manifest_data["board"] = {"id": "nucleo", "kind": "serial", "ram_bytes": 131072, "baud": 115200, "qemu": None}
    with pytest.raises(TargetError, match="nucleo has no emulator"):
        launcher.start_detached(make_build(manifest_data))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_build_folder_may_be_given_relatively(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(build.run_dir.parent)
    relative = load_build(Path())
    launcher.start_detached(relative, kind="host")
    assert train_once(build) == 1
    launcher.stop(relative)


def test_a_program_for_another_machine_is_an_error(build: Build) -> None:
    build.host_executable.write_bytes(b"\x7fELF nonsense")
    with pytest.raises(TargetError, match="cannot be started"):
        launcher.start_detached(build, kind="host")


def test_a_folder_that_cannot_be_written_is_an_error(build: Build) -> None:
    build.run_dir.write_text("a file where the folder should be")
    with pytest.raises(TargetError, match="cannot be started"):
        launcher.start_detached(build, kind="host")
    with pytest.raises(SessionError, match="cannot be written"):
        launcher.remember_port(build, "COM3")


def test_an_interrupt_while_starting_leaves_no_process(
    make_build: MakeBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = make_build(script=f"echo $$ > '{tmp_path}/pid'; exec sleep 600")

    def interrupted(*_: object, **__: object) -> None:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
        raise KeyboardInterrupt

    monkeypatch.setattr("socket.create_connection", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launcher.start_detached(build, kind="host")
    assert process.identity(int((tmp_path / "pid").read_text())) is None
