"""Builds of the firmware with the fake model, for the host and for QEMU."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .line import Client, Device

HERE = Path(__file__).parent
FIRMWARE = HERE.parents[1] / "firmware"
WARNINGS = [
    "-std=c99",
    "-pedantic",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wshadow",
    "-Wconversion",
    "-Wdouble-promotion",
    "-Wmissing-prototypes",
    "-Wundef",
    "-Wvla",
    "-ffp-contract=off",
    "-fno-fast-math",
]
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

PAGE_MODEL = """
#include <stddef.h>
#include "poet/model.h"
static const poet_param_t params[] = {{"weight", NULL, 100, 2048, POET_HOME_STORAGE}};
const poet_model_t poet_model = {.params = params, .param_count = 1, .page_unit_bytes = 64, .page_units = 64,
                                 .page_window_units = 64};
"""
"""A model of which one parameter is on storage that can be written over, at PAGE_HOME; its other pages are scratch."""
PAGE_HOME, PAGE_HOME_BYTES = 2048, 100


@dataclass(frozen=True)
class Machine:
    """One of QEMU's, and how firmware for it is compiled and linked."""

    name: str
    parts: tuple[str, ...]
    """Folders of firmware/port."""
    core: tuple[str, ...]
    flash_origin: int
    flash_bytes: int
    options: tuple[str, ...] = ()
    ram_bytes: int = 128 << 10
    stack_bytes: int = 4096

    @property
    def port(self) -> str:
        return self.parts[0]


CORTEX_M0 = ("-mcpu=cortex-m0", "-mthumb", "-mfloat-abi=soft")
CORTEX_M3 = ("-mcpu=cortex-m3", "-mthumb", "-mfloat-abi=soft")
CORTEX_M4 = ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
CORTEX_M7 = ("-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard")
NETDUINO = Machine(
    "netduinoplus2",
    ("stm32f4", "stm32f4_f7", "stm32", "systick", "cortexm"),
    CORTEX_M4,
    0x0800_0000,
    1 << 20,
    ("-DPOET_QEMU=1", "-DPOET_CPU_HZ=168000000u"),
)
AN386 = Machine("mps2-an386", ("mps2", "systick", "cortexm"), CORTEX_M4, 0, 4 << 20)
STELLARIS = Machine("lm3s6965evb", ("lm3s", "systick", "cortexm"), CORTEX_M3, 0, 256 << 10, ram_bytes=64 << 10)
SMARTFUSION = Machine("emcraft-sf2", ("m2s", "systick", "cortexm"), CORTEX_M3, 0, 256 << 10, ram_bytes=64 << 10)
MICROBIT = Machine(
    "microbit", ("nrf51", "nrf", "cortexm"), CORTEX_M0, 0, 128 << 10, ram_bytes=16 << 10, stack_bytes=2048
)
MACHINES = (
    NETDUINO,
    AN386,
    Machine("mps2-an500", ("mps2", "systick", "cortexm"), CORTEX_M7, 0, 4 << 20, ("-DPOET_CACHES=1",)),
    STELLARIS,
    SMARTFUSION,
    MICROBIT,
)


def runtime_sources(parts: tuple[str, ...], storage: str) -> list[str]:
    folders = (FIRMWARE / "src", *(FIRMWARE / "port" / part for part in parts))
    sources = [str(path) for folder in folders for path in sorted(folder.glob("*.c"))]
    return [*sources, str(FIRMWARE / "storage" / f"{storage}.c")]


def target_tool(name: str) -> str:
    """Path of a tool for emulated tests: missing is a skip, in CI a failure."""
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def run_compiler(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    compiler = target_tool("arm-none-eabi-gcc")
    return subprocess.run([compiler, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def compile_target(
    machine: Machine, folder: Path, *options: str, storage: str = "semihosting"
) -> subprocess.CompletedProcess[str]:
    """Objects of the firmware with the fake model and a storage driver."""
    flags = [*WARNINGS, *machine.core, "-g", "-ffunction-sections", "-fdata-sections", *machine.options]
    flags += [f"-I{FIRMWARE / 'include'}", *(f"-I{FIRMWARE / 'port' / part}" for part in machine.parts)]
    sources = [*runtime_sources(machine.parts, storage), str(HERE / "fake_model.c")]
    return run_compiler([*flags, *options, "-c", *sources], folder)


def link_target(
    machine: Machine, objects: list[Path], output: Path, **symbols: int
) -> subprocess.CompletedProcess[str]:
    """Link for the machine's memory, unless linker symbols such as _poet_ram_bytes say otherwise."""
    flags = [*machine.core, "--specs=nano.specs", "-nostartfiles", "-Wl,--gc-sections"]
    flags.append(f"-T{FIRMWARE / 'port' / 'cortexm' / 'link.ld'}")
    memory = {
        "_poet_flash_origin": machine.flash_origin,
        "_poet_flash_bytes": machine.flash_bytes,
        "_poet_ram_origin": 0x2000_0000,
        "_poet_ram_bytes": machine.ram_bytes,
        "_poet_stack_bytes": machine.stack_bytes,
    }
    flags += [f"-Wl,--defsym={name}={value}" for name, value in (memory | symbols).items()]
    return run_compiler([*flags, *map(str, objects), "-o", str(output)], output.parent)


def build_host(output: Path, *options: str) -> Path:
    sources = [*runtime_sources(("host",), "host_file"), str(HERE / "fake_model.c")]
    include = f"-I{FIRMWARE / 'include'}"
    subprocess.run(["cc", *WARNINGS, *SANITIZERS, *options, include, *sources, "-o", str(output)], check=True)
    return output


@pytest.fixture(scope="session")
def host_executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_host(tmp_path_factory.mktemp("host") / "firmware")


@pytest.fixture(scope="session")
def nor_executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake model on storage that has to be erased."""
    return build_host(tmp_path_factory.mktemp("nor") / "firmware", "-DFAKE_NOR")


@pytest.fixture(scope="session", params=MACHINES, ids=lambda machine: machine.name)
def machine(request: pytest.FixtureRequest) -> Machine:
    """Each of QEMU's machines that there is a port for."""
    found: Machine = request.param
    return found


@pytest.fixture(scope="session")
def target_objects(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("target")
    built = compile_target(machine, folder, "-O2")
    assert (built.returncode, built.stderr) == (0, "")
    return sorted(folder.glob("*.o"))


@pytest.fixture(scope="session")
def target_elf(machine: Machine, target_objects: list[Path]) -> Path:
    output = target_objects[0].with_name("firmware.elf")
    built = link_target(machine, target_objects, output)
    assert (built.returncode, built.stderr) == (0, "")
    return output


@pytest.fixture
def boot_host(host_executable: Path, nor_executable: Path, tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Start the host build on this test's storage file: boot_host(fault="cut@3"), boot_host(like="nor:256")."""
    devices: list[Device] = []
    storage = tmp_path / "storage.bin"

    def boot(fault: str = "", like: str = "") -> Device:
        process = subprocess.Popen(
            [str(nor_executable if like else host_executable), "0", "--storage", str(storage)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "POET_STORAGE_FAULT": fault} | ({"POET_STORAGE_LIKE": like} if like else {}),
        )
        assert process.stdout is not None
        device = Device(process, 0, storage)
        devices.append(device)
        word, _, port = process.stdout.readline().partition(" ")
        assert word == "listening"
        device.port = int(port)
        return device

    yield boot
    for device in devices:
        device.stop()


@pytest.fixture
def boot_qemu(machine: Machine, target_elf: Path, tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Start the firmware on QEMU, its storage file in this test's folder."""
    qemu = target_tool("qemu-system-arm")
    devices: list[Device] = []

    def boot(elf: Path = target_elf, semihosting: bool = True) -> Device:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            qemu,
            *["-M", machine.name, "-display", "none", "-monitor", "none"],
            "-kernel",
            str(elf),
        ]
        # The UART sends byte by byte: without nodelay each waits for the acknowledgement of the one before.
        command += ["-serial", f"tcp:127.0.0.1:{port},server=on,wait=off,nodelay=on"]
        if semihosting:
            command += ["-semihosting-config", "enable=on,target=native"]
        process = subprocess.Popen(command, cwd=tmp_path, text=True, stdin=subprocess.DEVNULL)
        device = Device(process, port, tmp_path / "poet_storage.bin")
        devices.append(device)
        return device

    yield boot
    for device in devices:
        device.stop()


@pytest.fixture
def client(boot_host: Callable[..., Device]) -> Client:
    """A client of a freshly booted host build."""
    return boot_host().connect()


@pytest.fixture(scope="session")
def unit(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[tuple[str, bytes]]], list[bytes]]:
    """Run unit.c on records of (operation, data)."""
    executable = tmp_path_factory.mktemp("unit") / "unit"
    sources = [str(FIRMWARE / "src" / f"{name}.c") for name in ("cobs", "crc32", "math")]
    include = f"-I{FIRMWARE / 'include'}"
    command = ["cc", *WARNINGS, *SANITIZERS, include, *sources, str(HERE / "unit.c"), "-o", str(executable)]
    subprocess.run(command, check=True)

    def run(records: list[tuple[str, bytes]]) -> list[bytes]:
        stream = b"".join(struct.pack("<cI", op.encode(), len(data)) + data for op, data in records)
        output = subprocess.run([str(executable)], input=stream, stdout=subprocess.PIPE, check=True).stdout
        results = []
        while output:
            (size,) = struct.unpack_from("<I", output)
            results.append(output[4 : 4 + size])
            output = output[4 + size :]
        return results

    return run


@pytest.fixture(scope="session")
def page_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Pages and streams, on the host file, as a library."""
    target = tmp_path_factory.mktemp("pages") / "pages.so"
    model = target.with_name("model.c")
    model.write_text(PAGE_MODEL)
    sources = [FIRMWARE / "src" / f"{name}.c" for name in ("stream", "page", "erase", "crc32")]
    sources += [FIRMWARE / "storage" / "host_file.c", model]
    command = ["cc", *WARNINGS, "-fPIC", "-shared", f"-I{FIRMWARE / 'include'}", *map(str, sources), "-o", str(target)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(target))


@pytest.fixture
def page_storage(page_library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The library's storage file, of this test."""
    path = tmp_path / "storage.bin"
    monkeypatch.setenv("POET_STORAGE", str(path))
    assert page_library.poet_storage_init() == 0
    yield path
    assert page_library.poet_storage_sync() == 0
