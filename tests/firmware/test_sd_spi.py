"""The driver of SD cards, on a model of a card that goes wrong in every way that it tells apart."""

from __future__ import annotations

import random

import pytest
from poet_hil.protocol import Status

from .console import Start, StatusError, exercise, fails, names

KB = 1024

SD = names(
    *("FINE", "MISSING", "NEVER_READY", "MULTIMEDIA_CARD", "WRONG_ECHO", "LOCK_IN_CSD", "LOCKED", "BUSY_FOR_EVER"),
    *("NEVER_READS", "UNREADABLE", "WORN", "NOISE_IN", "NOISE_OUT", "BYTE_ADDRESSED", "KILOBYTES", "POWER_CYCLED"),
    *("WRITE_ERROR", "WRITING"),
)


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
