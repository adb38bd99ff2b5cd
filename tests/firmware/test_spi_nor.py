"""The driver of serial NOR flash, on a model of six chips that go wrong in every way that it tells apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from poet_hil.protocol import Status

from .console import Start, build_with_model, exercise, fails, names, start_with_model

KB = 1024

NOR = names(
    *("FINE", "MISSING", "CHIP", "BUSY_FOR_EVER", "PROTECTED", "LOCKED", "STUCK_BIT", "ERASE_FAILS"),
    *("SAYS_IT_FAILED", "ASLEEP", "ERASING"),
)


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
