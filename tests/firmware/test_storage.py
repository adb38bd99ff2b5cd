"""Pages and checkpoints when storage goes wrong: flipped bits, failed writes, worn units, power cut at every write."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from .line import (
    CHECKPOINT,
    ERR_CORRUPT,
    ERR_NO_CHECKPOINT,
    ERR_NOT_READY,
    ERR_RANGE,
    ERR_STORAGE,
    ERR_WORN,
    ERR_WRONG_DEVICE,
    HELLO,
    HOMES_AT,
    INFER,
    INIT,
    POWER_CUT_EXIT_CODE,
    READ_PARAM,
    RESET,
    RESTORE,
    SWAP_BYTES,
    TRAIN,
    WEIGHT,
    WRITE_PARAM,
    Client,
    Device,
)

Boot = Callable[..., Device]
LEARNING_RATE = struct.pack("<f", 0.01)
HEADER_BYTES, WEIGHT_BYTES = 16, 1200
SLOT_HEADER_BYTES, BIAS_BYTES = 52, 64
WRITES_AT_BOOT, WRITES_A_STEP, WRITES_A_CHECKPOINT = 2, 4, 2


@dataclass(frozen=True)
class Medium:
    """What the host file behaves like, and where the fake model's data then are."""

    like: str
    unit_bytes: int
    ring_units: int

    @property
    def slot_bytes(self) -> int:
        """Of a checkpoint: where nothing is erased, the weight has no copy in it."""
        if not self.like:
            return SLOT_HEADER_BYTES + BIAS_BYTES
        return -(-(SLOT_HEADER_BYTES + BIAS_BYTES + WEIGHT_BYTES) // self.unit_bytes) * self.unit_bytes

    @property
    def slots_at(self) -> tuple[int, int]:
        first = self.ring_units * self.unit_bytes
        return first, first + self.slot_bytes

    def weight_at(self, turn: int, place: int = 0) -> int:
        """Where the weight's page begins, `turn` turns after boot on a new device; of its two places the first or the
        second, where nothing is erased."""
        if self.like:
            return -(1 + turn) % self.ring_units * self.unit_bytes
        return HOMES_AT + place * SWAP_BYTES

    def place(self, at: int) -> int:
        """Of a byte of the page ring."""
        return at % (self.ring_units * self.unit_bytes)


BYTES = Medium("", 16, 169)
NOR = Medium("nor:256", 256, 11)
NVMC = Medium("nvmc:256", 256, 11)
media = pytest.mark.parametrize("medium", [BYTES, NOR, NVMC], ids=["bytes", "nor", "nvmc"])
erased_media = pytest.mark.parametrize("medium", [NOR, NVMC], ids=["nor", "nvmc"])


def flip_bit(storage: Path, address: int) -> None:
    with storage.open("r+b") as file:
        file.seek(address)
        (byte,) = file.read(1)
        file.seek(address)
        file.write(bytes([byte ^ 0x04]))


def commit(client: Client) -> int:
    return int(struct.unpack("<I", client.do(CHECKPOINT))[0])


def train_and_commit(client: Client, steps: int) -> list[bytes]:
    """So many steps on one sample with a checkpoint after each, and the parameters in each of them."""
    client.write_sample(1.0)
    saved = []
    for _ in range(steps):
        client.train()
        commit(client)
        saved.append(client.params())
    return saved


def restore(client: Client) -> tuple[int, int]:
    """sequence, steps_done"""
    sequence, steps_done = struct.unpack("<II", client.do(RESTORE))
    return sequence, steps_done


def resumed_sequence(client: Client) -> int:
    """Of the checkpoint that the device booted from, as HELLO tells; 0: none."""
    return int(struct.unpack("<I", client.do(HELLO)[-4:])[0])


def unit_erases(device: Device) -> list[int]:
    """How often each unit of the page ring was erased."""
    data = device.storage.with_name("storage.bin.erases").read_bytes()
    counts = list(struct.unpack(f"<{len(data) // 4}I", data))
    return (counts + [0] * NOR.ring_units)[: NOR.ring_units]


@media
@pytest.mark.parametrize("run", [TRAIN, INFER])
@pytest.mark.parametrize("offset", [0, 5, 9, 13, 16, 700, HEADER_BYTES + WEIGHT_BYTES - 1])
def test_a_flipped_bit_of_a_page_stops_the_run(boot_host: Boot, medium: Medium, offset: int, run: int) -> None:
    device = boot_host(like=medium.like)
    client = device.connect()
    client.write_sample(1.0)
    client.train()
    commit(client)
    good = client.params()
    client.train()

    flip_bit(device.storage, medium.place(medium.weight_at(2, place=1) + offset))
    assert client.ask(run, LEARNING_RATE if run == TRAIN else b"").status == ERR_CORRUPT
    status = client.status()
    assert (status.storage_errors, status.last_error, status.steps_done) == (1, ERR_CORRUPT, 2)
    assert client.ask(READ_PARAM, struct.pack("<3I", WEIGHT, 600, 4)).status == ERR_CORRUPT

    # Half a run may have moved weights: nothing builds on them, and nothing commits them.
    for command, payload in ((TRAIN, LEARNING_RATE), (INFER, b""), (CHECKPOINT, b"")):
        assert client.ask(command, payload).status == ERR_NOT_READY
    assert restore(client) == (1, 1)
    assert client.params() == good
    assert client.train()[1] == 2


def test_an_old_page_does_not_pass_for_the_new_one(boot_host: Boot) -> None:
    """As if the medium had dropped a write: page and CRC are whole, but of another step."""
    device = boot_host()
    client = device.connect()
    client.write_sample(1.0)
    client.train()
    page = device.storage.read_bytes()[HOMES_AT:][: HEADER_BYTES + WEIGHT_BYTES]
    client.train()
    client.train()
    with device.storage.open("r+b") as file:
        file.seek(HOMES_AT)
        file.write(page)
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_CORRUPT


def test_a_part_written_into_a_corrupt_page_does_not_make_it_good(boot_host: Boot) -> None:
    device = boot_host()
    client = device.connect()
    flip_bit(device.storage, HOMES_AT + 700)
    client.ask(WRITE_PARAM, struct.pack("<IIf", WEIGHT, 0, 1.0))
    assert client.ask(READ_PARAM, struct.pack("<3I", WEIGHT, 0, 4)).status == ERR_CORRUPT
    client.do(RESET)
    assert len(client.read_param(WEIGHT, WEIGHT_BYTES)) == WEIGHT_BYTES


@erased_media
def test_a_parameter_on_erased_storage_is_written_whole_and_in_order(boot_host: Boot, medium: Medium) -> None:
    client = boot_host(like=medium.like).connect()
    data = struct.pack("<300f", *range(300))

    def write(start: int, end: int) -> int:
        return client.ask(WRITE_PARAM, struct.pack("<II", WEIGHT, start) + data[start:end]).status

    read = struct.pack("<3I", WEIGHT, 0, 4)
    assert write(500, 1000) == ERR_RANGE
    assert write(0, 500) == 0
    assert client.ask(READ_PARAM, read).status == ERR_CORRUPT
    assert write(504, 1004) == ERR_RANGE
    assert write(500, 1000) == 0
    assert client.ask(READ_PARAM, read).status == ERR_CORRUPT
    assert write(1000, 1200) == 0
    assert client.read_param(WEIGHT, WEIGHT_BYTES) == data
    assert write(0, 300) == 0 and write(300, 600) == 0
    assert client.ask(READ_PARAM, read).status == ERR_CORRUPT, "half of it is the old one's"


def test_a_bit_that_flips_while_a_page_is_written_is_found_when_it_is_read(boot_host: Boot) -> None:
    """The third and fourth write after boot are header and data of the page that the step writes first, reads last."""
    for write in (1, 2):
        client = boot_host(fault=f"flip@{WRITES_AT_BOOT + write}").connect()
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


@pytest.mark.parametrize("like", ["nor:100", "nor:512"])
def test_a_device_with_other_units_than_the_build_was_made_for(boot_host: Boot, like: str) -> None:
    client = boot_host(like=like).connect()
    assert client.status().last_error == ERR_WRONG_DEVICE
    assert client.ask(INIT).status == ERR_WRONG_DEVICE
    client.write_sample(1.0)
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_NOT_READY


@media
def test_checkpoints_alternate_and_the_newest_is_resumed_at_boot(boot_host: Boot, medium: Medium) -> None:
    device = boot_host(like=medium.like)
    client = device.connect()
    assert resumed_sequence(client) == 0
    assert client.ask(RESTORE).status == ERR_NO_CHECKPOINT
    fresh = client.params()
    client.write_sample(1.0)
    saved = {}
    for sequence in (1, 2, 3):
        client.train()
        assert commit(client) == sequence
        saved[sequence] = client.params()
    client.train()
    assert client.params() != saved[3]
    client.do(RESET)
    assert (resumed_sequence(client), client.status().steps_done) == (3, 3)
    assert client.params() == saved[3]
    client.write_sample(1.0)
    assert client.train()[1] == 4
    assert restore(client) == (3, 3)
    assert client.params() == saved[3]
    device.stop()

    client = boot_host(like=medium.like).connect()
    assert (resumed_sequence(client), client.params()) == (3, saved[3])
    client.do(INIT)
    assert (resumed_sequence(client), client.status().steps_done, client.params()) == (0, 0, fresh)
    client.do(RESET)
    assert (resumed_sequence(client), client.params()) == (0, fresh)
    assert client.ask(RESTORE).status == ERR_NO_CHECKPOINT
    client.write_sample(1.0)
    client.train()
    assert (client.params(), commit(client)) == (saved[1], 1)


@media
@pytest.mark.parametrize("part", [0, 4, 8, 12, 16, 20, 36, 40, 44, 48, 52, SLOT_HEADER_BYTES + BIAS_BYTES - 1])
def test_a_corrupt_newest_checkpoint_gives_way_to_the_one_before(boot_host: Boot, medium: Medium, part: int) -> None:
    device = boot_host(like=medium.like)
    client = device.connect()
    client.write_sample(1.0)
    client.train()
    commit(client)
    older = client.params()
    client.train()
    commit(client)

    flip_bit(device.storage, medium.slots_at[1] + part)
    assert restore(client) == (1, 1)
    assert client.params() == older
    # The corrupt slot is the one to overwrite.
    client.train()
    assert commit(client) == 2
    flip_bit(device.storage, medium.slots_at[0] + part)
    assert restore(client) == (2, 2)
    flip_bit(device.storage, medium.slots_at[1] + part)
    before = client.params()
    assert client.ask(RESTORE).status == ERR_NO_CHECKPOINT
    assert client.params() == before
    assert client.train()[1] == 3


@media
@pytest.mark.parametrize("offset", [0, 4, 8, 12, 16, HEADER_BYTES + WEIGHT_BYTES - 1])
def test_a_checkpoint_whose_weight_went_bad_gives_way_to_the_one_before(
    boot_host: Boot, medium: Medium, offset: int
) -> None:
    """The step after it reads all pages before it writes any, so that the one before is still there."""
    device = boot_host(like=medium.like)
    client = device.connect()
    saved = train_and_commit(client, 3)
    copy = medium.slots_at[0] + SLOT_HEADER_BYTES + BIAS_BYTES + offset - HEADER_BYTES
    flip_bit(device.storage, max(copy, medium.slots_at[0]) if medium.like else medium.weight_at(3, place=0) + offset)
    if not medium.like:
        assert client.ask(TRAIN, LEARNING_RATE).status == ERR_CORRUPT
    client.do(RESET)
    assert (resumed_sequence(client), client.params()) == (2, saved[1])
    client.write_sample(1.0)
    client.train()
    assert (commit(client), client.params()) == (3, saved[2])
    client.do(RESET)
    assert (resumed_sequence(client), client.params()) == (3, saved[2])


@media
def test_what_is_written_over_the_link_leaves_a_checkpoint_as_it_is(boot_host: Boot, medium: Medium) -> None:
    device = boot_host(like=medium.like)
    client = device.connect()
    client.write_sample(1.0)
    client.train()
    commit(client)
    saved = client.params()
    data = struct.pack("<300f", *range(300))
    for start, end in ((0, 500), (500, 1000), (1000, 1200)):
        client.do(WRITE_PARAM, struct.pack("<II", WEIGHT, start) + data[start:end])
    assert client.read_param(WEIGHT, WEIGHT_BYTES) == data
    client.do(RESET)
    assert (resumed_sequence(client), client.params()) == (1, saved)


@pytest.mark.parametrize("do", ["checkpoint again", "write a parameter"])
def test_pages_that_went_bad_do_not_cost_the_checkpoint_before(boot_host: Boot, do: str) -> None:
    """What a checkpoint holds is found good before the other slot, or the other places, are written over."""
    device = boot_host()
    client = device.connect()
    saved = train_and_commit(client, 2)
    flip_bit(device.storage, BYTES.weight_at(2, place=1) + HEADER_BYTES + 700)
    part = struct.pack("<IIf", WEIGHT, 0, 1.0)
    answer = client.ask(CHECKPOINT) if do == "checkpoint again" else client.ask(WRITE_PARAM, part)
    assert answer.status == ERR_CORRUPT
    client.do(RESET)
    assert (resumed_sequence(client), client.params()) == (1, saved[0])


@erased_media
def test_units_wear_alike_and_the_place_is_found_again(boot_host: Boot, medium: Medium) -> None:
    """Six turns around the ring, a boot each: all units were erased almost equally often."""
    counts = [0]
    for _ in range(6):
        erases_before = sum(counts)
        device = boot_host(like=medium.like)
        client = device.connect()
        client.write_sample(1.0)
        for _ in range(11):
            client.train()
        # A step writes seven units, and one more enters the window at its bottom only where it is not clean.
        erased = client.status().erases
        device.stop()
        counts = unit_erases(device)
        assert erased <= sum(counts) - erases_before <= erased + 7, "the last erases ahead come after the question"
        assert 7 * 11 <= erased <= 8 * 11 + 7
    assert max(counts) - min(counts) <= 6, counts


def test_erasing_ahead_is_done_between_steps(boot_host: Boot) -> None:
    """On flash that stalls the core, within the step: what a step writes was all erased before, where it was dead."""
    device = boot_host(like=NVMC.like)
    client = device.connect()
    client.write_sample(1.0)
    client.train()
    before = client.status().erases
    client.train()
    # Units of the weight hold its old version at first: all but the one at the window's bottom are erased in the step.
    assert client.status().erases - before == 7


def test_a_worn_unit_is_reported_and_never_trained_on(boot_host: Boot) -> None:
    """A unit survives 30 erases: the ring's 11 wear alike, so that the steps end when all are nearly worn."""
    device = boot_host(like="nvmc:256:30")
    client = device.connect()
    client.write_sample(1.0)
    steps = 0
    while (answer := client.ask(TRAIN, LEARNING_RATE)).status == 0:
        steps += 1
        assert steps < 100
    assert answer.status == ERR_WORN and client.status().last_error == ERR_WORN
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_NOT_READY
    counts = unit_erases(device)
    # 7 of 11 units a step: 47 steps when all are erased 30 times.
    assert 40 <= steps <= 47 and min(counts) >= 24, (steps, counts)


SCRIPT = "tctctctctc"  # train, commit
FAULTS = ("cut", "tear", "noise")
SAMPLE = 1 if os.environ.get("POET_POWER_CUTS") == "all" else 9  # every so many-th operation is cut


def play(client: Client, script: str, committed: dict[int, bytes]) -> None:
    """Run a script, noting the parameters that each commit is about to save."""
    client.write_sample(1.0)
    for letter in script:
        if letter == "t":
            client.train()
        else:
            committed[client.status().steps_done] = client.params()
            client.do(CHECKPOINT)


@media
@pytest.mark.parametrize("kind", FAULTS)
def test_power_cut_at_every_operation(boot_host: Boot, tmp_path: Path, medium: Medium, kind: str) -> None:
    """After a cut at write or erase k the device resumes by itself and ends with the bits of an uncut run."""
    uncut = boot_host(like=medium.like)
    client = uncut.connect()
    play(client, SCRIPT, {})
    expected = client.params()
    uncut.stop()

    for k in range(1 + FAULTS.index(kind) * SAMPLE // 3, 1000, SAMPLE):
        for file in tmp_path.glob("storage.bin*"):
            file.unlink()
        committed: dict[int, bytes] = {}
        device = boot_host(fault=f"{kind}@{k}", like=medium.like)
        try:
            play(device.connect(), SCRIPT, committed)
            device.stop()
            break
        except OSError:
            assert device.process.wait(10) == POWER_CUT_EXIT_CODE, f"{kind}@{k}"

        client = boot_host(like=medium.like).connect()
        resumed = client.status().steps_done
        assert client.status().storage_errors == 0, f"{kind}@{k}"
        assert resumed in {0, *committed}, f"{kind}@{k}"
        # Every commit that was answered counts; only the one that was cut may be missing.
        assert resumed >= max([0, *list(committed)[:-1]]), f"{kind}@{k}"
        if resumed:
            assert client.params() == committed[resumed], f"{kind}@{k}"
        play(client, "tc" * (5 - resumed), {})
        assert client.params() == expected, f"{kind}@{k}"
        client.do(RESET)
        assert (client.status().steps_done, client.params()) == (5, expected), f"{kind}@{k}"
    else:
        pytest.fail("the script never came to its end")
    assert k > (100 if medium.like else 26), "fewer operations than there are"


@media
def test_a_flipped_bit_at_every_operation(boot_host: Boot, tmp_path: Path, medium: Medium) -> None:
    """A write or erase that comes out wrong is an error in time, or made no difference; nothing was trained on it."""
    uncut = boot_host(like=medium.like)
    client = uncut.connect()
    play(client, SCRIPT, {})
    expected = client.params()
    uncut.stop()

    errors = 0
    for k in range(1, 140 if medium.like else 33, 1 if not medium.like else SAMPLE):
        for file in tmp_path.glob("storage.bin*"):
            file.unlink()
        device = boot_host(fault=f"flip@{k}", like=medium.like)
        client = device.connect()
        status = 0
        client.write_sample(1.0)
        for _ in range(5):
            status = status or client.ask(TRAIN, LEARNING_RATE).status or client.ask(CHECKPOINT).status
        status = status or client.ask(READ_PARAM, struct.pack("<3I", WEIGHT, 0, 4)).status
        if status == 0:
            assert client.params() == expected, f"flip@{k}"
        else:
            errors += 1
            assert status in (ERR_CORRUPT, ERR_WORN, ERR_NOT_READY), f"flip@{k}"
            assert client.status().storage_errors > 0, f"flip@{k}"
        device.stop()
        client = boot_host(like=medium.like).connect()
        play(client, "tc" * (5 - client.status().steps_done), {})
        assert client.params() == expected, f"flip@{k}"
    assert errors
