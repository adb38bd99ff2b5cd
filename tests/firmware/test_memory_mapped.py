"""The driver of memory on a bus, on a model that goes wrong in every way that it tells apart."""

from __future__ import annotations

import pytest
from poet_hil.protocol import Status

from .console import Start, fails, names

KB = 1024

BUS = names("FINE", "MISSING", "PROTECTED", "STUCK_BIT", "TOO_SMALL")


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
