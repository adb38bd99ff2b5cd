"""Storage drivers: on QEMU's devices, and on models of devices that go wrong in every way the drivers tell apart."""

from __future__ import annotations

import random
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from poet_hil.protocol import Status, status_text

from .conftest import (
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
from .console import Console, Info, StatusError, build_for_machine, build_with_model, start_on_machine, start_with_model
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


Start = Callable[..., Console]


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


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Build each driver once with its model."""
    built: dict[str, Path] = {}

    def build(driver: str, name: str) -> Path:
        if driver not in built:
            size = "-DPOET_STORAGE_BYTES=65536u" if driver in ("nrf_nvmc", "memory_mapped") else "-DPOET_MODEL=1"
            built[driver] = build_with_model(driver, name, tmp_path_factory.mktemp(driver), size)
        return built[driver]

    return build


MODELS = {"sd_spi": "sd_card", "spi_nor": "nor_flash", "nrf_nvmc": "nrf_flash", "memory_mapped": "bus_memory"}


@pytest.fixture
def device(model: Callable[[str, str], Path]) -> Iterator[Start]:
    """A driver with a model that goes wrong before the driver is brought up: device("sd_spi", SD["MISSING"])."""
    running: list[Console] = []

    def start(driver: str, *faults: tuple[int, int] | int) -> Console:
        console = start_with_model(model(driver, MODELS[driver]))
        running.append(console)
        for fault in faults:
            console.go_wrong(*(fault if isinstance(fault, tuple) else (fault,)))
        return console

    yield start
    for console in running:
        assert console.stop() in (0, 3)


def names(*of: str) -> dict[str, int]:
    """The enum at the head of a model."""
    return {name: index for index, name in enumerate(of)}


SD = names(
    *("FINE", "MISSING", "NEVER_READY", "MULTIMEDIA_CARD", "WRONG_ECHO", "LOCK_IN_CSD", "LOCKED", "BUSY_FOR_EVER"),
    *("NEVER_READS", "UNREADABLE", "WORN", "NOISE_IN", "NOISE_OUT", "BYTE_ADDRESSED", "KILOBYTES", "POWER_CYCLED"),
    *("WRITE_ERROR", "WRITING"),
)
NOR = names(
    *("FINE", "MISSING", "CHIP", "BUSY_FOR_EVER", "PROTECTED", "LOCKED", "STUCK_BIT", "ERASE_FAILS"),
    *("SAYS_IT_FAILED", "ASLEEP", "ERASING"),
)
NVMC = names("FINE", "PAGE_BYTES", "BUSY_FOR_EVER", "PROTECTED", "STUCK_BIT", "ERASE_FAILS", "FLASH_BYTES")
BUS = names("FINE", "MISSING", "PROTECTED", "STUCK_BIT", "TOO_SMALL")


def fails(status: Status, call: Callable[..., object], *arguments: object) -> None:
    """The call returns this status, which has a text of its own."""
    with pytest.raises(StatusError) as caught:
        call(*arguments)
    assert caught.value.status is status
    assert "which is not known here" not in status_text(status)


def exercise(console: Console, seed: int, rounds: int, most_bytes: int) -> dict[int, bytes]:
    """Write, read back, cross all boundaries, erase, anywhere on the device; returns what was left where."""
    random_ = random.Random(seed)
    info = console.info()
    left: dict[int, bytes] = {}
    if info.erase_bytes == 1:
        # Two windows: at the start, and over the last byte.
        window = min(6 * most_bytes, info.size_bytes // 2)
        for base in (0, info.size_bytes - window):
            kept = bytearray(console.read(base, window))
            for _ in range(rounds):
                size = random_.choice((1, 7, 8, 511, 512, 513, random_.randrange(1, most_bytes)))
                at = random_.choice((0, window - size, random_.randrange(window - size + 1)))
                data = random_.randbytes(size)
                console.write(base + at, data)
                kept[at : at + size] = data
                at = random_.randrange(window)
                size = random_.randrange(1, min(most_bytes, window - at) + 1)
                assert console.read(base + at, size) == kept[at : at + size]
            left[base] = bytes(kept)
    else:
        unit = info.erase_bytes
        most_bytes = min(most_bytes, unit - 64)
        for base in (0, info.size_bytes - 2 * unit):
            console.erase(base, 2 * unit)
            # Up to the unit's end and over it, in pieces that leave no gap, and of which two at most share a word.
            first = base + unit - most_bytes
            data = random_.randbytes(2 * most_bytes)
            at = 0
            while at < len(data):
                size = max(info.write_bytes, random_.choice((1, 2, 3, 5, 255, 256, 257, random_.randrange(most_bytes))))
                console.write(first + at, data[at : at + size])
                at += size
            assert console.read(first, len(data)) == data
            assert console.read(first - 64, 64) == b"\xff" * 64
            assert console.read(first + len(data), 64) == b"\xff" * 64
            left[first] = data
            fails(Status.RANGE, console.erase, base + 1, unit)
            # The other unit keeps what it has.
            console.erase(base, unit)
            left[first] = b"\xff" * most_bytes + data[most_bytes:]
            assert console.read(first, len(data)) == left[first]
    console.sync()
    for outside in (info.size_bytes - 1, info.size_bytes, 0xFFFF_FFFF):
        fails(Status.STORAGE_FULL, console.write, outside, b"ab")
        fails(Status.STORAGE_FULL, console.call, "R", outside, 2)
    return left


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


# ---- SD cards ----


@pytest.mark.parametrize("version", [1, 2])
def test_older_cards_count_bytes(version: int, device: Start) -> None:
    console = device("sd_spi", (SD["BYTE_ADDRESSED"], version))
    console.init()
    exercise(console, seed=version, rounds=40, most_bytes=3000)


@pytest.mark.parametrize(
    ("fault", "parameter", "status"),
    [
        ("MISSING", 0, Status.NO_DEVICE),
        ("NEVER_READY", 0, Status.TIMEOUT),
        ("MULTIMEDIA_CARD", 0, Status.WRONG_DEVICE),
        ("WRONG_ECHO", 0, Status.WRONG_DEVICE),
        ("NEVER_READS", 0, Status.TIMEOUT),
    ],
)
def test_cards_that_do_not_come_up(fault: str, parameter: int, status: Status, device: Start) -> None:
    console = device("sd_spi", (SD[fault], parameter))
    # Reading the first block, for a card that only then is silent.
    with pytest.raises(StatusError) as caught:
        console.init()
        console.read(0, 1)
    assert caught.value.status is status
    # Put right, it comes up.
    console.go_wrong(SD["FINE"])
    console.init()
    assert len(console.read(0, 1)) == 1


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("fault", "parameter", "status"),
    [
        ("LOCKED", 0, Status.READ_ONLY),
        ("BUSY_FOR_EVER", 0, Status.TIMEOUT),
        ("WORN", 3, Status.WORN),
        ("WRITE_ERROR", 0, Status.STORAGE),
        ("MISSING", 0, Status.TIMEOUT),
    ],
)
def test_cards_that_fail_when_they_are_written(
    fault: str, parameter: int, status: Status, several: bool, device: Start
) -> None:
    console = device("sd_spi")
    console.init()
    console.go_wrong(SD[fault], parameter)
    if fault == "MISSING":
        status = Status.NO_DEVICE
    fails(status, console.write, 3 * 512, b"x" * (1024 if several else 512))
    # Through the cache the error comes when the block is written: at the latest at a sync.
    if not several and fault != "BUSY_FOR_EVER":
        with pytest.raises(StatusError) as caught:
            console.write(3 * 512 + 5, b"y")
            console.sync()
        assert caught.value.status is status


def test_a_locked_card_refuses_before_anything_is_cached(device: Start) -> None:
    console = device("sd_spi", SD["LOCK_IN_CSD"])
    console.init()
    fails(Status.READ_ONLY, console.write, 1, b"x")
    assert console.read(0, 3) == b"\0\0\0"
    console.sync()


def test_a_block_that_cannot_be_read_any_more(device: Start) -> None:
    console = device("sd_spi")
    console.init()
    console.go_wrong(SD["UNREADABLE"], 5)
    fails(Status.WORN, console.read, 4 * 512, 2048)
    fails(Status.WORN, console.read, 5 * 512 + 9, 1)
    assert console.read(6 * 512, 512) == bytes(512)


@pytest.mark.parametrize("fault", ["NOISE_IN", "NOISE_OUT"])
def test_noise_on_the_line_is_tried_again_and_never_taken(fault: str, device: Start) -> None:
    console = device("sd_spi")
    console.init()
    data = random.Random(3).randbytes(1536)
    console.go_wrong(SD[fault], 2)
    console.write(512, data)
    assert console.read(512, 1536) == data
    console.go_wrong(SD[fault], 1000)
    with pytest.raises(StatusError) as caught:
        console.write(512, data)
        console.read(512, 1536)
    assert caught.value.status is Status.STORAGE


def test_a_small_card_is_full_where_it_ends(device: Start) -> None:
    console = device("sd_spi", (SD["KILOBYTES"], 512))
    console.init()
    assert console.info().size_bytes == 512 * KB
    fails(Status.STORAGE_FULL, console.write, 512 * KB - 1, b"xy")


def test_a_card_that_was_out_is_missed(device: Start) -> None:
    console = device("sd_spi")
    console.init()
    console.go_wrong(SD["POWER_CYCLED"])
    fails(Status.NO_DEVICE, console.read, 0, 512)
    console.init()
    assert console.read(0, 512) == bytes(512)


def test_a_card_that_still_writes_after_the_board_was_reset(device: Start) -> None:
    console = device("sd_spi", (SD["WRITING"], 400_000))
    console.init()
    assert console.read(0, 512) == bytes(512)


# ---- NOR flash ----


@pytest.mark.parametrize(
    ("chip", "size_bytes", "erase_bytes"),
    [
        (0, 16 << 20, 64 * KB),
        (1, 8 << 20, 4 * KB),
        (2, 64 << 20, 4 * KB),
        (3, 32 << 20, 4 * KB),
        (4, 16 << 20, 256 * KB),
    ],
)
def test_chips_with_and_without_tables_of_their_own(
    chip: int, size_bytes: int, erase_bytes: int, device: Start
) -> None:
    """Above 16 MB by commands with four bytes of address (2), or by a mode (3)."""
    console = device("spi_nor", (NOR["CHIP"], chip))
    console.init()
    info = console.info()
    assert (info.size_bytes, info.erase_bytes, info.endurance_erases) == (size_bytes, erase_bytes, 100_000)
    exercise(console, seed=chip, rounds=0, most_bytes=1500)


def test_larger_erases_where_they_fit(device: Start) -> None:
    """4 + 28 + 32 + 64 + 4 KB: the model counts half a second each, and the driver's deadline is 5 s for each."""
    console = device("spi_nor", (NOR["CHIP"], 1))
    console.init()
    for at in range(4 * KB, 136 * KB, 4 * KB):
        console.write(at, b"\0")
    console.erase(4 * KB, 128 * KB)
    for at in range(4 * KB, 132 * KB, 4 * KB):
        assert console.read(at, 1) == b"\xff"
    assert console.read(132 * KB, 1) == b"\0"


@pytest.mark.parametrize(
    ("fault", "parameter", "status"),
    [
        ("MISSING", 0xFF, Status.NO_DEVICE),
        ("MISSING", 0x00, Status.NO_DEVICE),
        ("CHIP", 5, Status.WRONG_DEVICE),
    ],
)
def test_chips_that_do_not_come_up(fault: str, parameter: int, status: Status, device: Start) -> None:
    console = device("spi_nor", (NOR[fault], parameter))
    fails(status, console.init)
    fails(status, console.read, 0, 1)
    console.go_wrong(NOR["CHIP"], 0)
    console.init()
    assert console.read(0, 1) == b"\xff"


def test_the_board_may_name_its_chip(tmp_path: Path) -> None:
    executable = build_with_model("spi_nor", "nor_flash", tmp_path, "-DPOET_NOR_JEDEC_ID=0xC22817u")
    console = start_with_model(executable)
    fails(Status.WRONG_DEVICE, console.init)
    console.go_wrong(NOR["CHIP"], 1)
    console.init()
    assert console.stop() == 0


def test_a_chip_in_deep_power_down_is_woken(device: Start) -> None:
    console = device("spi_nor", NOR["ASLEEP"])
    console.init()
    assert console.read(0, 1) == b"\xff"


def test_a_chip_that_still_erases_after_the_board_was_reset(device: Start) -> None:
    console = device("spi_nor", (NOR["ERASING"], 3_000_000))
    console.init()
    assert console.read(0, 1) == b"\xff"


@pytest.mark.parametrize(
    ("fault", "parameter", "status"),
    [
        ("BUSY_FOR_EVER", 0, Status.TIMEOUT),
        ("PROTECTED", 0, Status.READ_ONLY),
        ("LOCKED", 0, Status.READ_ONLY),
        ("STUCK_BIT", 70, Status.WORN),
        ("SAYS_IT_FAILED", 0, Status.WORN),
        ("MISSING", 0xFF, Status.NO_DEVICE),
    ],
)
def test_chips_that_fail_when_they_are_programmed(fault: str, parameter: int, status: Status, device: Start) -> None:
    console = device("spi_nor")
    console.init()
    console.go_wrong(NOR[fault], parameter)
    fails(status, console.write, 0, bytes(100))


@pytest.mark.parametrize(
    ("fault", "parameter", "status"),
    [
        ("BUSY_FOR_EVER", 0, Status.TIMEOUT),
        ("PROTECTED", 0, Status.READ_ONLY),
        ("LOCKED", 0, Status.READ_ONLY),
        ("ERASE_FAILS", 65535, Status.WORN),
        ("SAYS_IT_FAILED", 0, Status.WORN),
    ],
)
def test_chips_that_fail_when_they_are_erased(fault: str, parameter: int, status: Status, device: Start) -> None:
    console = device("spi_nor")
    console.init()
    console.write(0, b"\0")
    console.go_wrong(NOR[fault], parameter)
    fails(status, console.erase, 0, 64 * KB)


def test_what_was_not_erased_is_not_written(device: Start) -> None:
    console = device("spi_nor")
    console.init()
    console.write(10, b"\x0f")
    fails(Status.WORN, console.write, 10, b"\xf0")


# ---- The microcontroller's own flash ----


@pytest.mark.parametrize(
    ("fault", "parameter", "status"),
    [("PAGE_BYTES", 0xFFFF_FFFF, Status.WRONG_DEVICE), ("FLASH_BYTES", 32 * KB, Status.STORAGE_FULL)],
)
def test_flash_that_does_not_come_up(fault: str, parameter: int, status: Status, device: Start) -> None:
    console = device("nrf_nvmc", (NVMC[fault], parameter))
    fails(status, console.init)
    fails(status, console.write, 0, b"x")


@pytest.mark.parametrize(
    ("fault", "parameter", "status"),
    [
        ("BUSY_FOR_EVER", 0, Status.TIMEOUT),
        ("PROTECTED", 0, Status.READ_ONLY),
        ("STUCK_BIT", 6, Status.WORN),
    ],
)
def test_flash_that_fails_when_it_is_written(fault: str, parameter: int, status: Status, device: Start) -> None:
    console = device("nrf_nvmc")
    console.init()
    console.erase(0, 4 * KB)
    console.go_wrong(NVMC[fault], parameter)
    fails(status, console.write, 1, bytes(9))


@pytest.mark.parametrize(
    ("fault", "parameter", "status"),
    [
        ("BUSY_FOR_EVER", 0, Status.TIMEOUT),
        ("PROTECTED", 0, Status.READ_ONLY),
        ("ERASE_FAILS", 4095, Status.WORN),
    ],
)
def test_flash_that_fails_when_it_is_erased(fault: str, parameter: int, status: Status, device: Start) -> None:
    console = device("nrf_nvmc")
    console.init()
    console.erase(0, 4 * KB)
    console.write(0, b"data")
    console.go_wrong(NVMC[fault], parameter)
    fails(status, console.erase, 0, 4 * KB)


# ---- Memory on a bus ----


@pytest.mark.parametrize(
    ("fault", "parameter", "status"),
    [
        ("MISSING", 0xFF, Status.NO_DEVICE),
        ("MISSING", 0x00, Status.NO_DEVICE),
        ("TOO_SMALL", 32 * KB, Status.STORAGE_FULL),
    ],
)
def test_memory_that_does_not_come_up(fault: str, parameter: int, status: Status, device: Start) -> None:
    console = device("memory_mapped", (BUS[fault], parameter))
    fails(status, console.init)
    fails(status, console.write, 0, b"x")


def test_memory_that_takes_nothing_or_loses_bits(device: Start) -> None:
    console = device("memory_mapped")
    console.init()
    console.write(0, b"kept")
    console.go_wrong(BUS["STUCK_BIT"], 300)
    fails(Status.WORN, console.write, 256, bytes(64))
    console.go_wrong(BUS["PROTECTED"])
    fails(Status.READ_ONLY, console.init)
    fails(Status.READ_ONLY, console.write, 0, b"x")
