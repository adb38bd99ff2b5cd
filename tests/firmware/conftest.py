"""What the firmware's tests share: builds of it, and devices that run them."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .builds import (
    FIRMWARE,
    HERE,
    MACHINES,
    PAGE_MODEL,
    SANITIZERS,
    WARNINGS,
    Machine,
    build_host,
    compile_target,
    link_target,
    target_tool,
)
from .console import MODELS, Console, Start, build_with_model, start_with_model
from .line import Client, Device


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
    sources = [str(FIRMWARE / "src" / f"{name}.c") for name in ("cobs", "crc32", "crc32_table", "math")]
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
    names = ("stream", "page", "deferred", "erase", "crc32", "crc32_table")
    sources = [FIRMWARE / "src" / f"{name}.c" for name in names]
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


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Build each driver once with its model."""
    built: dict[str, Path] = {}

    def build(driver: str) -> Path:
        if driver not in built:
            options = ("-DPOET_STORAGE_BYTES=65536u",) if driver in ("nrf_nvmc", "memory_mapped") else ()
            built[driver] = build_with_model(driver, MODELS[driver], tmp_path_factory.mktemp(driver), *options)
        return built[driver]

    return build


@pytest.fixture
def device(model: Callable[[str], Path]) -> Iterator[Start]:
    """A driver with a model that goes wrong before the driver is brought up: device("sd_spi", SD["MISSING"])."""
    running: list[Console] = []

    def start(driver: str, *faults: tuple[int, int] | int) -> Console:
        console = start_with_model(model(driver))
        running.append(console)
        for fault in faults:
            console.go_wrong(*(fault if isinstance(fault, tuple) else (fault,)))
        return console

    yield start
    for console in running:
        assert console.stop() in (0, 3)
