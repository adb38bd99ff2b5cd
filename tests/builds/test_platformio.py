from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from poet_codegen.board import Board, list_boards, load_board
from poet_codegen.errors import BoardError, ToolError
from poet_codegen.platformio import firmware as firmware_build
from poet_codegen.platformio.firmware import build_firmware, upload_firmware
from poet_codegen.platformio.host import build_host
from poet_codegen.platformio.skeleton import project_skeleton
from poet_codegen.platformio.standins import install_standins, prepare_offline

MakeProject = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_user_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORMIO_CORE_DIR", str(tmp_path / "empty-core"))


# One board of each port; `make boards` builds them all.
ONE_OF_EACH = sorted({load_board(name).port: name for name in list_boards() if load_board(name).port}.values())


@pytest.mark.usefixtures("arm_gcc")
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_builds_without_the_registry(name: str, make_project: MakeProject) -> None:
    board = load_board(name)
    project = make_project(board)
    steps: list[str] = []
    result = build_firmware(project, board, steps.append)
    size = result.footprint

    assert result.elf == project / "firmware.elf"
    assert result.elf.read_bytes()[:4] == b"\x7fELF"
    assert 4_000 < size.flash_bytes < 64_000
    assert size.ram_objects["arena"] == 4096
    assert size.ram_static_bytes > 4096
    assert size.sections[".stack"] == board.stack_bytes
    assert size.ram_static_bytes + size.sections[".stack"] <= board.ram.size_bytes
    assert 0 < result.largest_frame[1] < board.stack_bytes
    assert "Compiling src/poet_model.o" in steps
    assert steps[-1].startswith(("Building", "Linking"))
    # Nothing of the build stays but the log.
    assert list((project / ".pio").iterdir()) == []
    assert "warning" not in (project / "build.log").read_text(encoding="utf-8").lower()


@pytest.mark.usefixtures("arm_gcc")
def test_builds_at_the_same_time_do_not_meet(board: Board, make_project: MakeProject) -> None:
    first, second = make_project(board, "first"), make_project(board, "second")
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda project: build_firmware(project, board), (first, first, second)))
    images = {result.elf.read_bytes() for result in results}
    assert len(images) == 1, "the same sources gave different firmware"


@pytest.mark.usefixtures("arm_gcc")
def test_folders_may_have_any_name(board: Board, make_project: MakeProject) -> None:
    project = make_project(board, 'it\'s my "project" (é)')
    assert build_firmware(project, board).elf.is_file()
    assert build_host(project).is_file()
    with pytest.raises(ToolError, match=r"\$HOME: .*Choose a folder without"):
        build_firmware(make_project(board, "$HOME"), board)


@pytest.mark.usefixtures("arm_gcc")
def test_an_error_in_the_sources_is_shown_and_leaves_no_firmware(board: Board, make_project: MakeProject) -> None:
    project = make_project(board)
    (project / "firmware.elf").write_bytes(b"of an earlier build")
    source = project / "src/poet_model.c"
    source.write_text(source.read_text() + "\nint poet_wrong(void) { return 1.5f; }\n")
    with pytest.raises(ToolError, match=r"src/poet_model\.c:\d+:\d+: error: no previous prototype") as caught:
        build_firmware(project, board)
    assert str(project / "build.log") in str(caught.value)
    assert not (project / "firmware.elf").exists()
    with pytest.raises(ToolError, match=r"src/poet_model\.c:\d+:\d+: error: no previous prototype"):
        build_host(project)
    assert not (project / "host/firmware").exists()


@pytest.mark.usefixtures("arm_gcc")
def test_too_much_ram_is_a_link_error(board: Board, make_project: MakeProject) -> None:
    project = make_project(board)
    source = project / "src/poet_model.c"
    source.write_text(source.read_text().replace("ARENA_BYTES 4096u", "ARENA_BYTES 131072u"))
    with pytest.raises(ToolError, match=r"ram needs \d+ bytes.* and there are 131072\. Plan again"):
        build_firmware(project, board)


@pytest.mark.usefixtures("arm_gcc")
def test_too_much_code_is_a_link_error_that_names_what_is_large(board: Board, make_project: MakeProject) -> None:
    project = make_project(board)
    source = project / "src/poet_model.c"
    source.write_text(source.read_text().replace("scales[SCALES] =", "scales[SCALES + 300000] ="))
    told = r"flash needs \d+ bytes, and there are 1048576\. .* largest functions are \w+ \d+, .*board with more flash"
    with pytest.raises(ToolError, match=told):
        build_firmware(project, board)


def test_missing_compilers_are_named(
    board: Board, make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(board)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(
        ToolError, match=r"gcc-arm-none-eabi libnewlib-arm-none-eabi.*ststm32, toolchain-gccarmnoneeabi"
    ):
        build_firmware(project, board)
    with pytest.raises(ToolError, match="install --no-install-recommends gcc libc6-dev"):
        build_host(project)


@pytest.mark.usefixtures("arm_gcc")
def test_packages_from_the_registry_serve_where_no_compiler_is_on_path(
    board: Board, make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(board)
    core_dir = tmp_path / "empty-core"
    install_standins(core_dir, [board])
    programs = core_dir / "packages/toolchain-gccarmnoneeabi/bin"
    programs.mkdir()
    for name in ("gcc", "objcopy", "size"):
        program = programs / f"arm-none-eabi-{name}"
        program.write_text(f'#!/bin/sh\nexec {shutil.which(program.name)} "$@"\n')
        program.chmod(0o755)
    shell = tmp_path / "bin/sh"
    shell.parent.mkdir()
    shell.symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(shell.parent))
    result = build_firmware(project, board)
    assert result.compiler == f"PlatformIO's packages in {core_dir}"
    assert result.footprint.ram_objects["arena"] == 4096


def test_compiler_without_newlib_is_named(
    board: Board, make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(board)
    gcc = tmp_path / "arm-none-eabi-gcc"
    gcc.write_text("#!/bin/sh\necho nano.specs\n")
    gcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"without newlib's nano\.specs.*libnewlib-arm-none-eabi"):
        build_firmware(project, board)


@pytest.mark.usefixtures("arm_gcc")
def test_a_build_that_hangs_is_ended(board: Board, make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firmware_build, "BUILD_TIMEOUT_S", 0.05)
    with pytest.raises(ToolError, match="took longer than"):
        build_firmware(make_project(board), board)


@pytest.mark.usefixtures("arm_gcc")
def test_plain_pio_builds_and_uploads_where_there_is_no_registry(
    make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `poet doctor --offline` prepares; the upload reaches an OpenOCD that writes down how it was called."""
    board = load_board("nrf52840_dk")
    core_dir, written = prepare_offline([load_board(name) for name in list_boards() if load_board(name).port])
    assert core_dir == tmp_path / "empty-core"
    assert written == ("tool-scons", "toolchain-gccarmnoneeabi", "nordicnrf52", "ststm32")
    programs = tmp_path / "programs"
    programs.mkdir()
    openocd = programs / "openocd"
    openocd.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/called"\n')
    openocd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    project = make_project(board)
    command = [sys.executable, "-m", "platformio", "run", "-d", str(project), "-t", "upload"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    elf = ".pio/build/nrf52840_dk/firmware.elf"
    assert (project / elf).is_file()
    called = (tmp_path / "called").read_text().splitlines()
    assert called[:2] == ["-f", "interface/jlink.cfg"] and "target/nrf52.cfg" in called
    assert called[-1] == f"program {{{elf}}} verify reset exit"

    settings = project / "platformio.ini"
    settings.write_text(settings.read_text().replace("upload_protocol = jlink", "upload_protocol = nrfjprog"))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode != 0 and "not by 'nrfjprog'" in done.stderr


def test_packages_of_the_registry_stay_as_they_are(tmp_path: Path) -> None:
    core_dir = tmp_path / "core"
    official = core_dir / "platforms/ststm32/platform.json"
    official.parent.mkdir(parents=True)
    official.write_text('{"description": "ST STM32"}')
    board = load_board("disco_f407vg")
    assert install_standins(core_dir, [board]) == ("tool-scons", "toolchain-gccarmnoneeabi")
    assert official.read_text() == '{"description": "ST STM32"}'
    # Its own are written again, for another version of PlatformIO or other boards.
    assert install_standins(core_dir, [board]) == ("tool-scons", "toolchain-gccarmnoneeabi")


def test_no_project_here(board: Board, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"no platformio\.ini.*poet plan"):
        build_firmware(tmp_path, board)
    with pytest.raises(ToolError, match=r"no C sources.*poet plan"):
        build_host(tmp_path)


def test_upload_says_what_is_missing(board: Board, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="emulated"):
        upload_firmware(tmp_path, board)
    disco = load_board("disco_f407vg")
    with pytest.raises(ToolError, match=r": ststm32, toolchain-gccarmnoneeabi, tool-scons\..*-t upload"):
        upload_firmware(tmp_path, disco)
    platform = tmp_path / "empty-core/platforms/ststm32"
    platform.mkdir(parents=True)
    tools = {"tool-openocd": {"type": "uploader"}, "tool-jlink": {"type": "uploader"}, "framework-x": {}}
    (platform / "platform.json").write_text(json.dumps({"packages": tools}))
    with pytest.raises(ToolError, match=r": toolchain-gccarmnoneeabi, tool-scons, tool-openocd\."):
        upload_firmware(tmp_path, disco)


def test_host_build_runs(board: Board, make_project: MakeProject) -> None:
    project = make_project(board)
    steps: list[str] = []
    executable = build_host(project, steps.append)
    assert executable == project / "host/firmware"
    assert "Compiled src/poet_model.c" in steps
    with subprocess.Popen([executable, "0"], cwd=project, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening ")
        process.terminate()


def test_skeleton_is_the_same_every_time_and_has_what_the_board_needs(board: Board) -> None:
    files = project_skeleton(board)
    assert list(files) == sorted(files)
    assert files == project_skeleton(board)
    settings = files["platformio.ini"].decode()
    for line in (
        "platform = platformio/ststm32@^19.0.0",
        "platform_packages = platformio/toolchain-gccarmnoneeabi@>=1.120201.0,<1.130000.0",
        "board_upload.maximum_ram_size = 131072",
        "    -ffp-contract=off",
        "    -DPOET_QEMU=1u",
        "    -Wl,--defsym=_poet_ram_bytes=0x20000",
    ):
        assert line in settings.splitlines()
    assert "lib/poet/storage/semihosting.c" in files
    assert "lib/poet/storage/host_file.c" not in files
    assert "lib/poet/port/stm32f4_f7/clock.c" in files
    assert "lib/poet/port/cortexm/link.ld" in files
    assert not any(name.startswith("lib/poet/port/host") for name in files)
    assert "host/src/storage/host_file.c" in files


@pytest.mark.parametrize(("field", "wanted"), [("port", "port 'pdp11'"), ("driver", "storage driver 'pdp11'")])
def test_unknown_port_or_driver(board: Board, field: str, wanted: str) -> None:
    if field == "port":
        board = dataclasses.replace(board, port="pdp11")
    else:
        board = dataclasses.replace(board, storage_devices=(dataclasses.replace(board.storage, driver="pdp11"),))
    with pytest.raises(BoardError, match=f"{wanted}.*it has "):
        project_skeleton(board)
