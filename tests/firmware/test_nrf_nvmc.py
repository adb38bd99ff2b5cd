"""The driver of the microcontroller's own flash, on a model that goes wrong in every way that it tells apart."""

from __future__ import annotations

import pytest
from poet_hil.protocol import Status

from .console import Start, fails, names

KB = 1024

NVMC = names("FINE", "PAGE_BYTES", "BUSY_FOR_EVER", "PROTECTED", "STUCK_BIT", "ERASE_FAILS", "FLASH_BYTES")


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
