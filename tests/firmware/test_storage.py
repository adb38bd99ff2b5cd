"""Pages and checkpoints when storage goes wrong: flipped bits, failed writes, power cut at every write."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from .line import (
    CHECKPOINT,
    ERR_CORRUPT,
    ERR_NO_CHECKPOINT,
    ERR_NOT_READY,
    ERR_STORAGE,
    INFER,
    POWER_CUT_EXIT_CODE,
    READ_PARAM,
    RESET,
    RESTORE,
    STORAGE_BYTES,
    TRAIN,
    WEIGHT,
    WRITE_PARAM,
    Client,
    Device,
)

Boot = Callable[..., Device]
LEARNING_RATE = struct.pack("<f", 0.01)
SLOT_BYTES = 40 + 64 + 1200
SLOTS_AT = (STORAGE_BYTES, STORAGE_BYTES + SLOT_BYTES)
WRITES_AT_BOOT, WRITES_A_STEP, WRITES_A_CHECKPOINT = 2, 4, 7


def flip_bit(storage: Path, address: int) -> None:
    with storage.open("r+b") as file:
        file.seek(address)
        (byte,) = file.read(1)
        file.seek(address)
        file.write(bytes([byte ^ 0x04]))


def commit(client: Client) -> int:
    return int(struct.unpack("<I", client.do(CHECKPOINT))[0])


def restore(client: Client) -> tuple[int, int]:
    """sequence, steps_done"""
    sequence, steps_done = struct.unpack("<II", client.do(RESTORE))
    return sequence, steps_done


@pytest.mark.parametrize("run", [TRAIN, INFER])
@pytest.mark.parametrize("address", [0, 5, 1199, 1200, 1203, 1204, 1207])
def test_a_flipped_bit_of_a_page_stops_the_run(boot_host: Boot, address: int, run: int) -> None:
    device = boot_host()
    client = device.connect()
    client.write_sample(1.0)
    client.train()
    commit(client)
    good = client.params()

    flip_bit(device.storage, address)
    assert client.ask(run, LEARNING_RATE if run == TRAIN else b"").status == ERR_CORRUPT
    status = client.status()
    assert (status.storage_errors, status.last_error, status.steps_done) == (1, ERR_CORRUPT, 1)
    assert client.ask(READ_PARAM, struct.pack("<3I", WEIGHT, 600, 4)).status == ERR_CORRUPT

    # Half a run may have moved weights: nothing builds on them, and nothing commits them.
    for command, payload in ((TRAIN, LEARNING_RATE), (INFER, b""), (CHECKPOINT, b"")):
        assert client.ask(command, payload).status == ERR_NOT_READY
    assert restore(client) == (1, 1)
    assert client.params() == good
    assert client.train()[1] == 2


def test_a_part_written_into_a_corrupt_page_does_not_make_it_good(boot_host: Boot) -> None:
    device = boot_host()
    client = device.connect()
    flip_bit(device.storage, 700)
    client.ask(WRITE_PARAM, struct.pack("<IIf", WEIGHT, 0, 1.0))
    assert client.ask(READ_PARAM, struct.pack("<3I", WEIGHT, 0, 4)).status == ERR_CORRUPT
    client.do(RESET)
    assert len(client.read_param(WEIGHT, 1200)) == 1200


def test_a_bit_that_flips_while_a_page_is_written_is_found_when_it_is_read(boot_host: Boot) -> None:
    """The third write after boot is the data of the page that the step writes first and reads last."""
    client = boot_host(fault=f"flip@{WRITES_AT_BOOT + 1}").connect()
    client.write_sample(1.0)
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_CORRUPT
    client.do(RESET)
    client.write_sample(1.0)
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_CORRUPT


@pytest.mark.parametrize("write", range(1, 1 + WRITES_AT_BOOT + WRITES_A_STEP + WRITES_A_CHECKPOINT))
def test_a_device_whose_storage_fails_still_answers(boot_host: Boot, write: int) -> None:
    client = boot_host(fault=f"fail@{write}").connect()
    client.write_sample(1.0)
    statuses = [client.ask(TRAIN, LEARNING_RATE).status, client.ask(CHECKPOINT).status]
    if write <= WRITES_AT_BOOT:
        assert statuses == [ERR_NOT_READY, ERR_NOT_READY]
        assert client.ask(RESTORE).status == ERR_NO_CHECKPOINT
    elif write <= WRITES_AT_BOOT + WRITES_A_STEP:
        assert statuses == [ERR_STORAGE, ERR_NOT_READY]
    else:
        assert statuses == [0, ERR_STORAGE]
        assert client.ask(RESTORE).status == ERR_NO_CHECKPOINT
        assert client.params(), "the parameters are still there"
    status = client.status()
    assert status.storage_errors == 1 and status.last_error != 0


def test_storage_that_cannot_be_opened(boot_host: Boot, tmp_path: Path) -> None:
    (tmp_path / "storage.bin").mkdir()
    client = boot_host().connect()
    client.write_sample(1.0)
    assert client.status().last_error == ERR_STORAGE
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_NOT_READY
    assert client.ask(RESTORE).status == ERR_STORAGE


def test_checkpoints_alternate_and_outlive_a_reset(boot_host: Boot) -> None:
    client = boot_host().connect()
    assert client.ask(RESTORE).status == ERR_NO_CHECKPOINT
    client.write_sample(1.0)
    saved = {}
    for sequence in (1, 2, 3):
        client.train()
        assert commit(client) == sequence
        saved[sequence] = client.params()
    client.train()
    client.do(RESET)
    assert client.params() not in saved.values()
    assert restore(client) == (3, 3)
    assert client.params() == saved[3]
    client.write_sample(1.0)
    assert client.train()[1] == 4
    assert commit(client) == 4


@pytest.mark.parametrize("part", [0, 4, 8, 12, 16, 20, 36, 40, 103, 104, SLOT_BYTES - 1])
def test_a_corrupt_newest_checkpoint_gives_way_to_the_one_before(boot_host: Boot, part: int) -> None:
    device = boot_host()
    client = device.connect()
    client.write_sample(1.0)
    client.train()
    commit(client)
    older = client.params()
    client.train()
    commit(client)

    flip_bit(device.storage, SLOTS_AT[1] + part)
    assert restore(client) == (1, 1)
    assert client.params() == older
    # The corrupt slot is the one to overwrite.
    client.train()
    assert commit(client) == 2
    flip_bit(device.storage, SLOTS_AT[0] + part)
    assert restore(client) == (2, 2)
    flip_bit(device.storage, SLOTS_AT[1] + part)
    before = client.params()
    assert client.ask(RESTORE).status == ERR_NO_CHECKPOINT
    assert client.params() == before
    assert client.train()[1] == 3


SCRIPT = "ttcttctt"  # train, commit
SCRIPT_WRITES = WRITES_AT_BOOT + 6 * WRITES_A_STEP + 2 * WRITES_A_CHECKPOINT


def play(client: Client, script: str, committed: dict[int, bytes]) -> None:
    """Run a script, noting the parameters that each commit is about to save."""
    client.write_sample(1.0)
    for letter in script:
        if letter == "t":
            client.train()
        else:
            committed[client.status().steps_done] = client.params()
            client.do(CHECKPOINT)


@pytest.mark.parametrize("kind", ["cut", "tear"])
def test_power_cut_at_every_write(boot_host: Boot, tmp_path: Path, kind: str) -> None:
    """After a cut at write k the device resumes from the last commit and ends with the uncut run's bits."""
    uncut = boot_host().connect()
    play(uncut, SCRIPT, {})
    expected = uncut.params()

    for k in range(1, SCRIPT_WRITES + 1):
        (tmp_path / "storage.bin").unlink()
        committed: dict[int, bytes] = {}
        device = boot_host(fault=f"{kind}@{k}")
        with pytest.raises(OSError):
            play(device.connect(), SCRIPT, committed)
        assert device.process.wait(10) == POWER_CUT_EXIT_CODE, f"{kind}@{k}"

        client = boot_host().connect()
        answer = client.ask(RESTORE)
        resumed = struct.unpack("<II", answer.payload)[1] if answer.status == 0 else 0
        assert answer.status in (0, ERR_NO_CHECKPOINT), f"{kind}@{k}"
        assert resumed in {0, *committed}, f"{kind}@{k}"
        # Every commit that was answered counts; only the one that was cut may be missing.
        assert resumed >= max([0, *list(committed)[:-1]]), f"{kind}@{k}"
        if resumed:
            assert client.params() == committed[resumed], f"{kind}@{k}"
        client.write_sample(1.0)
        for _ in range(6 - resumed):
            client.train()
        assert client.params() == expected, f"{kind}@{k}"
