"""All storage drivers, on QEMU's devices and on models; each driver's errors are in a file of its own."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from poet_hil.protocol import Status

from .builds import (
    AN386,
    MICROBIT,
    NETDUINO,
    SMARTFUSION,
    STELLARIS,
    Machine,
    compile_target,
    link_target,
    target_tool,
)
from .console import MODELS, Console, Info, Start, build_for_machine, exercise, fails, start_on_machine
from .line import INIT, TRAIN, Device

KB = 1024


@dataclass(frozen=True)
class Emulated:
    """A driver on a device that QEMU has."""

    driver: str
    machine: Machine
    options: tuple[str, ...]
    symbols: dict[str, int]
    arguments: tuple[str, ...]
    """For QEMU; the device's image is image.bin."""
    image_bytes: int
    fill: bytes = b"\0"
    outlives_qemu: bool = True


PSRAM = (
    "-machine",
    "memory-backend=psram",
    "-object",
    "memory-backend-file,id=psram,size=16M,mem-path=image.bin,share=on",
)
EMULATED = {
    "sd card": Emulated("sd_spi", STELLARIS, (), {}, ("-drive", "if=sd,file=image.bin,format=raw"), 1 << 20),
    "sdhc card": Emulated("sd_spi", STELLARIS, (), {}, ("-drive", "if=sd,file=image.bin,format=raw"), 4 << 30),
    "nor flash": Emulated(
        "spi_nor",
        SMARTFUSION,
        ("-DPOET_NOR_JEDEC_ID=0x012018u",),
        {},
        ("-drive", "if=mtd,file=image.bin,format=raw"),
        16 << 20,
        b"\xff",
    ),
    "nrf flash": Emulated(
        "nrf_nvmc",
        MICROBIT,
        ("-DPOET_STORAGE_BYTES=131072u",),
        {"poet_storage_memory": 0x20000},
        (),
        0,
        outlives_qemu=False,
    ),
    "psram": Emulated(
        "memory_mapped",
        AN386,
        ("-DPOET_STORAGE_BYTES=0x1000000u",),
        {"poet_storage_memory": 0x2100_0000},
        PSRAM,
        16 << 20,
    ),
    "semihosting file": Emulated(
        "semihosting", STELLARIS, (), {}, ("-semihosting-config", "enable=on,target=native"), 0
    ),
}


@pytest.fixture(scope="session")
def console_elf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Emulated], Path]:
    """Build each driver once."""
    built: dict[str, Path] = {}

    def build(device: Emulated) -> Path:
        if device.driver not in built:
            folder = tmp_path_factory.mktemp(device.driver)
            built[device.driver] = build_for_machine(
                device.machine, device.driver, folder, *device.options, **device.symbols
            )
        return built[device.driver]

    return build


@pytest.fixture
def emulate(console_elf: Callable[[Emulated], Path], tmp_path: Path) -> Iterator[Start]:
    """Start a driver on QEMU; its image stays from one start to the next."""
    qemu = target_tool("qemu-system-arm")
    running: list[Console] = []

    def start(device: Emulated, image_bytes: int | None = None, arguments: tuple[str, ...] | None = None) -> Console:
        image = tmp_path / "image.bin"
        size = device.image_bytes if image_bytes is None else image_bytes
        if size and not image.exists():
            with image.open("wb") as file:
                if device.fill == b"\0":
                    file.truncate(size)
                else:
                    file.write(device.fill * size)
        chosen = device.arguments if arguments is None else arguments
        console = start_on_machine(qemu, device.machine, console_elf(device), tmp_path, *chosen)
        running.append(console)
        return console

    yield start
    for console in running:
        console.stop()


@pytest.mark.emulated
@pytest.mark.parametrize("name", EMULATED)
def test_on_an_emulated_device(name: str, emulate: Start) -> None:
    """Then again after a restart: power off and on, or a reset where QEMU keeps the device in memory."""
    emulated = EMULATED[name]
    console = emulate(emulated)
    console.init()
    left = exercise(console, seed=1, rounds=8, most_bytes=1100)
    if emulated.outlives_qemu:
        console.stop()
        console = emulate(emulated)
    else:
        console.reset()
    console.init()
    for address, data in left.items():
        assert console.read(address, len(data)) == data


@pytest.mark.emulated
@pytest.mark.parametrize(
    ("name", "info"),
    [
        ("sd card", Info(1 << 20, 1, 512, 0, "SD card over SPI")),
        ("nor flash", Info(16 << 20, 64 * KB, 1, 100_000, "SPI NOR flash")),
        ("nrf flash", Info(128 * KB, 1 * KB, 4, 10_000, "nRF flash")),
    ],
)
def test_what_the_emulated_devices_are(name: str, info: Info, emulate: Start) -> None:
    console = emulate(EMULATED[name])
    console.init()
    assert console.info() == info


@pytest.mark.emulated
def test_no_card_in_the_emulated_slot(emulate: Start) -> None:
    console = emulate(EMULATED["sd card"], arguments=())
    fails(Status.NO_DEVICE, console.init)
    fails(Status.NO_DEVICE, console.write, 0, b"x")


@pytest.mark.emulated
@pytest.mark.parametrize(("image_bytes", "status"), [(0, Status.NO_DEVICE), (1 << 20, Status.OK)])
def test_a_device_says_at_boot_what_is_wrong_with_its_card(image_bytes: int, status: Status, tmp_path: Path) -> None:
    """The whole firmware, with the fake model: it answers, and INIT, which `poet flash` asks, says what is missing."""
    built = compile_target(STELLARIS, tmp_path, "-O2", storage="sd_spi")
    assert (built.returncode, built.stderr) == (0, "")
    elf = tmp_path / "firmware.elf"
    built = link_target(STELLARIS, sorted(tmp_path.glob("*.o")), elf)
    assert (built.returncode, built.stderr) == (0, "")
    drive = []
    if image_bytes:
        (tmp_path / "image.bin").write_bytes(bytes(image_bytes))
        drive = ["-drive", "if=sd,file=image.bin,format=raw"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serial = f"tcp:127.0.0.1:{port},server=on,wait=off,nodelay=on"
    command = [target_tool("qemu-system-arm"), "-M", STELLARIS.name, "-display", "none", "-monitor", "none"]
    process = subprocess.Popen(
        [*command, "-serial", serial, "-kernel", str(elf), *drive], cwd=tmp_path, text=True, stdin=subprocess.DEVNULL
    )
    device = Device(process, port, tmp_path / "image.bin")
    try:
        client = device.connect()
        assert client.status().last_error == status
        assert client.ask(INIT).status == status
        client.write_sample(1.0)
        assert client.ask(TRAIN, struct.pack("<f", 0.01)).status == (Status.OK if image_bytes else Status.NOT_READY)
    finally:
        device.stop()


@pytest.mark.emulated
def test_an_spi_with_nothing_on_it(tmp_path: Path) -> None:
    """STM32F4's, as far as QEMU has it: the controller moves bytes, and nobody answers."""
    elf = build_for_machine(NETDUINO, "sd_spi", tmp_path)
    console = start_on_machine(target_tool("qemu-system-arm"), NETDUINO, elf, tmp_path)
    try:
        fails(Status.NO_DEVICE, console.init)
    finally:
        console.stop()


@pytest.mark.parametrize("driver", MODELS)
def test_on_a_model(driver: str, device: Start) -> None:
    console = device(driver)
    fails(Status.NO_DEVICE, console.read, 0, 1)
    console.init()
    left = exercise(console, seed=2, rounds=60, most_bytes=3000)
    console.init()
    for address, data in left.items():
        assert console.read(address, len(data)) == data
