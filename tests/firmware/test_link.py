"""The protocol, on a host build with sanitizers: every command, every wrong length and range, and garbage."""

from __future__ import annotations

import random
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .line import (
    ARENA_PEAK_BYTES,
    BIAS,
    CHECKPOINT,
    ERR_ABI,
    ERR_INPUT,
    ERR_LABEL,
    ERR_LENGTH,
    ERR_NOT_FINITE,
    ERR_NOT_READY,
    ERR_RANGE,
    ERR_UNKNOWN,
    HELLO,
    INFER,
    INIT,
    PARAM_BYTES,
    PROFILE,
    READ_OUTPUT,
    READ_PARAM,
    RESET,
    RESTORE,
    SCALE,
    STATUS,
    TIMEOUT_S,
    TRAIN,
    WEIGHT,
    WRITE_INPUT,
    WRITE_LABEL,
    WRITE_PARAM,
    Client,
    Device,
    encode,
)

LEARNING_RATE = struct.pack("<f", 0.01)


def test_hello(client: Client) -> None:
    payload = client.do(HELLO)
    fields = struct.unpack("<16s16s9I32s16s16s24sI", payload)
    assert fields[0] == bytes(range(1, 17)) and fields[1] == bytes(range(16, 0, -1))
    assert fields[2:11] == (512, 4096, 40, 8, 16, 3, 7, 0, 10_000_000)
    names = [text.rstrip(b"\0").decode() for text in fields[11:15]]
    assert names == ["fake_board", "0.0.0-test", "host", "host file"]


def test_a_training_run(client: Client) -> None:
    client.write_sample(1.0)
    before = client.params()
    losses = [client.train()[:2] for _ in range(3)]
    assert [steps_done for _, steps_done in losses] == [1, 2, 3]
    assert losses[0][0] > losses[1][0] > losses[2][0]
    assert client.params() != before
    status = client.status()
    assert (status.steps_done, status.page_outs, status.page_ins, status.recomputes) == (3, 2, 2, 1)
    assert status.arena_high_water_bytes == ARENA_PEAK_BYTES
    assert (status.storage_errors, status.frames_dropped, status.last_error) == (0, 0, 0)


def test_inference_changes_nothing_that_is_reported_of_training(client: Client) -> None:
    client.write_sample(1.0)
    client.train()
    before, params = client.status(), client.params()
    client.do(INFER)
    assert len(client.do(READ_OUTPUT, struct.pack("<II", 0, 16))) == 16
    assert (client.status(), client.params()) == (before, params)


def test_profile_covers_the_step(client: Client) -> None:
    client.write_sample(1.0, 30.0)
    _, _, total = client.train()
    client.do(INFER)
    first, count, *ticks, infer_ticks = struct.unpack("<9I", client.do(PROFILE, struct.pack("<I", 0)))
    assert (first, count) == (0, 7)
    assert ticks[1] >= 300_000
    assert sum(ticks) <= total
    assert infer_ticks > 0
    assert struct.unpack("<4I", client.do(PROFILE, struct.pack("<I", 5))) == (5, 2, ticks[5], infer_ticks)
    assert client.do(PROFILE, struct.pack("<I", 7)) == struct.pack("<II", 7, 0)
    assert client.ask(PROFILE, struct.pack("<I", 8)).status == ERR_RANGE


@pytest.mark.parametrize("index", [BIAS, WEIGHT])
def test_parameters_read_back_as_written(client: Client, index: int) -> None:
    random_ = random.Random(index)
    image = bytearray(client.read_param(index, PARAM_BYTES[index]))
    for _ in range(60):
        size = random_.randrange(1, min(504, len(image)) + 1)
        at = random_.randrange(len(image) - size + 1)
        image[at : at + size] = random_.randbytes(size)
        client.do(WRITE_PARAM, struct.pack("<II", index, at) + image[at : at + size])
        assert client.read_param(index, len(image)) == image


def test_the_step_reads_a_parameter_written_piece_by_piece(client: Client) -> None:
    """Its page's CRC is right, else the page-in of the step would refuse it."""
    weights = struct.pack("<300f", *range(300))
    for at in (400, 800, 0):
        client.do(WRITE_PARAM, struct.pack("<II", WEIGHT, at) + weights[at : at + 400])
    client.write_sample(1.0)
    client.train(0.0)
    assert client.read_param(WEIGHT, 1200) == weights


def test_frozen_parameters_are_read_only(client: Client) -> None:
    assert struct.unpack("<4f", client.read_param(SCALE, 16))[0] == pytest.approx(0.1)
    assert client.ask(WRITE_PARAM, struct.pack("<IIf", SCALE, 0, 1.0)).status == ERR_RANGE


@pytest.mark.parametrize(
    ("kind", "good_lengths"),
    [
        (HELLO, {0}),
        (WRITE_INPUT, set(range(9, 513))),
        (WRITE_LABEL, set(range(5, 513))),
        (TRAIN, {4}),
        (INFER, {0}),
        (READ_OUTPUT, {8}),
        (READ_PARAM, {12}),
        (WRITE_PARAM, set(range(9, 513))),
        (STATUS, {0}),
        (PROFILE, {4}),
        (CHECKPOINT, {0}),
        (RESTORE, {0}),
        (RESET, {0}),
        (INIT, {0}),
    ],
)
def test_wrong_lengths_are_named(client: Client, kind: int, good_lengths: set[int]) -> None:
    for length in [*range(20), 511, 512]:
        if length not in good_lengths:
            assert client.ask(kind, bytes(length)).status == ERR_LENGTH
    assert client.ask(HELLO).status == 0


@pytest.mark.parametrize(
    ("kind", "arguments", "data_bytes"),
    [
        (WRITE_INPUT, (0, 0), 33),
        (WRITE_INPUT, (0, 32), 1),
        (WRITE_INPUT, (0, 0xFFFFFFFF), 2),
        (WRITE_INPUT, (1, 4), 5),
        (WRITE_INPUT, (2, 0), 1),
        (WRITE_INPUT, (0xFFFFFFFF, 0), 1),
        (WRITE_LABEL, (7,), 2),
        (READ_OUTPUT, (0, 17), 0),
        (READ_OUTPUT, (17, 0), 0),
        (READ_OUTPUT, (0xFFFFFFFF, 2), 0),
        (READ_OUTPUT, (2, 0xFFFFFFFF), 0),
        (READ_PARAM, (3, 0, 4), 0),
        (READ_PARAM, (0xFFFFFFFF, 0, 4), 0),
        (READ_PARAM, (BIAS, 0, 65), 0),
        (READ_PARAM, (WEIGHT, 0, 513), 0),
        (READ_PARAM, (WEIGHT, 0xFFFFFFFF, 2), 0),
        (WRITE_PARAM, (3, 0), 4),
        (WRITE_PARAM, (BIAS, 61), 4),
        (WRITE_PARAM, (WEIGHT, 0xFFFFFFFF), 4),
    ],
)
def test_ranges(client: Client, kind: int, arguments: tuple[int, ...], data_bytes: int) -> None:
    payload = struct.pack(f"<{len(arguments)}I", *arguments) + bytes(data_bytes)
    assert client.ask(kind, payload).status == ERR_RANGE


def test_training_needs_all_inputs_and_the_label(client: Client) -> None:
    for index in (1, 0):
        assert client.ask(TRAIN, LEARNING_RATE).status == ERR_NOT_READY
        assert client.ask(INFER).status == ERR_NOT_READY
        client.do(WRITE_INPUT, struct.pack("<II", index, 0) + bytes(8))
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_NOT_READY
    assert client.ask(INFER).status == 0


@pytest.mark.parametrize("rows", [(4, 0), (0, -5), (2**31 - 1, 0), (0, -(2**31))])
def test_indices_outside_the_table_do_not_run(client: Client, rows: tuple[int, int]) -> None:
    client.write_sample(1.0, rows=rows)
    before = client.params()
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_INPUT
    assert client.ask(INFER).status == ERR_INPUT
    assert client.params() == before
    assert client.status().last_error == ERR_INPUT
    client.write_sample(1.0, rows=(-4, 3))
    assert client.train()[1] == 1


@pytest.mark.parametrize("labels", [(-1, 0), (0, 10), (2**31 - 1, 0), (0, -(2**31))])
def test_labels_outside_the_classes_do_not_train(client: Client, labels: tuple[int, int]) -> None:
    client.write_sample(1.0, labels=labels)
    before = client.params()
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_LABEL
    assert client.params() == before
    assert client.status().last_error == ERR_LABEL
    client.write_sample(1.0)
    assert client.train()[1] == 1


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), float("-inf")])
def test_learning_rates_that_would_ruin_the_weights(client: Client, rate: float) -> None:
    client.write_sample(1.0)
    before = client.params()
    assert client.ask(TRAIN, struct.pack("<f", rate)).status == ERR_RANGE
    assert client.params() == before


def test_a_loss_that_is_not_finite_is_an_error_and_no_step(client: Client) -> None:
    client.write_sample(1.0)
    client.train()
    before = client.params()
    client.write_sample(1.0, 0.0, 1.0)
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_NOT_FINITE
    assert client.params() == before
    assert client.status().steps_done == 1
    client.do(INFER)
    client.do(CHECKPOINT)
    client.write_sample(1.0)
    assert client.train()[1] == 2


def test_unknown_types_and_other_versions_are_answered(client: Client) -> None:
    for kind in (0x00, 0x0F, 0x7D, 0x7E, 0x7F):
        assert client.ask(kind).status == ERR_UNKNOWN
    for abi in (0, 1, 2, 4, 255):
        assert client.ask(HELLO, abi=abi).status == ERR_ABI
    client.send(encode(0xFF, 7))
    frame = client.receive()
    assert (frame.type, frame.seq, frame.status) == (0xFF, 7, ERR_UNKNOWN)


def test_a_repeated_request_is_answered_again_and_not_executed_again(client: Client) -> None:
    client.write_sample(1.0)
    request = encode(TRAIN, 500, LEARNING_RATE)
    for _ in range(3):
        client.send(request)
    answers = [client.answer(500) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert client.status().steps_done == 1
    client.send(request)
    assert client.answer(500) != answers[0], "another request came between: this is a new one"


def test_the_same_seq_with_another_payload_is_another_request(client: Client) -> None:
    client.write_sample(1.0)
    client.send(encode(TRAIN, 500, struct.pack("<f", 0.01)) + encode(TRAIN, 500, struct.pack("<f", 0.02)))
    assert client.answer(500) != client.answer(500)
    assert client.status().steps_done == 2


def test_hello_forgets_the_response_before_it(client: Client) -> None:
    client.write_sample(1.0)
    request = encode(TRAIN, 500, LEARNING_RATE)
    client.send(request)
    client.answer(500)
    client.do(HELLO)
    client.send(request)
    client.answer(500)
    assert client.status().steps_done == 2


def test_a_repeated_error_is_the_same_error(client: Client) -> None:
    request = encode(TRAIN, 9, LEARNING_RATE)
    client.send(request + request)
    assert client.answer(9) == client.answer(9)
    assert client.status().last_error == ERR_NOT_READY


def test_frames_that_cannot_be_trusted_are_dropped_and_counted(client: Client) -> None:
    good = encode(STATUS, 77)
    bad = [
        good[:3] + b"\x55" + good[4:],  # one byte changed
        b"\x05\x01\0",  # ends inside a block
        b"\x02\x01\0",  # too short for a header
        encode(WRITE_INPUT, 78, bytes(513)),  # too long for a frame
        encode(WRITE_INPUT, 79, b"\x01" * 5000),
        good[:-3] + b"\0",  # cut
    ]
    for wire in bad:
        client.send(wire)
    client.send(b"\0\0\0")  # empty frames: nothing is wrong with them
    assert client.status().frames_dropped == len(bad)


def test_the_longest_payload_fits(client: Client) -> None:
    values = random.Random(1).randbytes(504)
    client.do(WRITE_PARAM, struct.pack("<II", WEIGHT, 100) + values)
    assert client.do(READ_PARAM, struct.pack("<3I", WEIGHT, 92, 512))[8:] == values


@pytest.mark.parametrize("seed", range(6))
def test_garbage_never_silences_the_device(client: Client, seed: int) -> None:
    random_ = random.Random(seed)
    kinds = [kind for kind in range(256) if kind != RESET]
    for _ in range(150):
        choice = random_.randrange(4)
        if choice == 0:
            client.send(random_.randbytes(random_.randrange(1, 900)))
        elif choice == 1:
            wire = bytearray(encode(random_.choice(kinds), random_.randrange(0xFF00), random_.randbytes(40)))
            wire[random_.randrange(len(wire))] = random_.randrange(256)
            client.send(bytes(wire))
        elif choice == 2:
            payload = random_.randbytes(random_.choice([0, 4, 8, 12, random_.randrange(513)]))
            client.send(encode(random_.choice(kinds), random_.randrange(0xFF00), payload))
        else:
            fields = [random_.choice([0, 1, 2, 3, 4, 511, 0x7FFFFFFF, 0xFFFFFFFF]) for _ in range(3)]
            payload = struct.pack("<3I", *fields)[: random_.choice([4, 8, 12])]
            client.send(encode(random_.choice(range(RESET)), random_.randrange(0xFF00), payload))
    client.send(b"\0")
    client.send(encode(HELLO, 0xFFFF))
    assert client.answer(0xFFFF).status == 0


def test_heartbeats_on_a_long_step(client: Client) -> None:
    client.write_sample(1.0, 400.0)
    client.train()
    assert {(h.seq, h.status) for h in client.heartbeats} == {(client.seq, 0)}
    index, total, ticks = struct.unpack("<IIQ", client.heartbeats[0].payload)
    assert (index, total) == (2, 7) and ticks >= 4_000_000


def test_requests_that_come_during_a_step_are_answered_after_it(client: Client) -> None:
    client.write_sample(1.0, 300.0)
    client.send(encode(TRAIN, 600, LEARNING_RATE) + b"".join(encode(STATUS, 601 + i) for i in range(20)))
    assert [client.answer(600 + i).status for i in range(21)] == [0] * 21


def test_reset_is_a_fresh_boot_on_the_same_line(client: Client) -> None:
    fresh = client.params()
    client.write_sample(1.0)
    client.train()
    assert client.params() != fresh
    client.do(RESET)
    assert client.status().steps_done == 0
    assert client.params() == fresh
    assert client.ask(TRAIN, LEARNING_RATE).status == ERR_NOT_READY


def test_a_client_may_leave_in_the_middle_and_another_come(boot_host: Callable[..., Device]) -> None:
    device = boot_host()
    first = device.connect()
    first.write_sample(1.0, 200.0)
    first.send(encode(TRAIN, 1, LEARNING_RATE) + encode(STATUS, 2)[:5])
    first.close()
    second = device.connect()
    assert second.status().steps_done == 1


def test_terminate_ends_the_host_build_cleanly(boot_host: Callable[..., Device]) -> None:
    device = boot_host()
    client = device.connect()
    step_s = 2 * TIMEOUT_S
    client.write_sample(1.0, 1000.0 * step_s)
    client.send(encode(STATUS, 600) + encode(TRAIN, 601, LEARNING_RATE))
    client.answer(600)
    time.sleep(0.05)  # into the step, most likely; it must not matter
    device.process.send_signal(signal.SIGTERM)
    assert device.process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("arguments", [[], ["x"], ["-1"], ["65536"], ["0", "--storage"], ["0", "--no", "f"]])
def test_the_host_build_explains_its_arguments(host_executable: Path, arguments: list[str]) -> None:
    command = [host_executable, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert ended.returncode == 2 and "usage" in ended.stderr
