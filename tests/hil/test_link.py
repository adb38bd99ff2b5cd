from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poet_hil.device import DeviceClient
from poet_hil.errors import DeviceError, LinkTimeout, ProtocolError
from poet_hil.link import Link
from poet_hil.manifest import Manifest
from poet_hil.protocol import ABI, RESPONSE, Command, DeviceStatus, Frame, Heartbeat, Status, encode, request_train
from poet_hil.standin import StandIn, StandInTarget

from .conftest import Clock

Disturb = Callable[[bytes], bytes]
LABEL = b"\0\0\0\0\1\0\0\0"
INPUT = b"\0\0\0\0" + bytes(64)


class Script:
    """Does something else to each send: the first item to the first, and nothing to those behind the last."""

    def __init__(self, *steps: Disturb) -> None:
        self.steps = list(steps)

    def __call__(self, data: bytes) -> bytes:
        return self.steps.pop(0)(data) if self.steps else data


class Noise:
    """Loses, doubles, flips and holds back bytes, each with the probability `rate`."""

    def __init__(self, seed: int, rate: float) -> None:
        self.random = random.Random(seed)
        self.rate = rate
        self.held = b""

    def __call__(self, data: bytes) -> bytes:
        out = bytearray(self.held)
        self.held = b""
        for index, byte in enumerate(data):
            if self.random.random() >= self.rate:
                out.append(byte)
                continue
            match self.random.choice(("lose", "double", "flip", "insert", "hold")):
                case "double":
                    out += bytes([byte, byte])
                case "flip":
                    out.append(byte ^ (1 << self.random.randrange(8)))
                case "insert":
                    out += bytes([byte, self.random.randrange(256)])
                case "hold":
                    self.held = data[index:]
                    break
        return bytes(out)


def lose(_: bytes) -> bytes:
    return b""


def double(data: bytes) -> bytes:
    return data + data


def keep(data: bytes) -> bytes:
    return data


def linked(
    manifest: Manifest,
    to_device: Disturb = keep,
    from_device: Disturb = keep,
    *,
    heartbeats: int = 0,
    tries: int = 4,
    first_seq: int | None = None,
) -> tuple[Link, StandIn]:
    device = StandIn(manifest, heartbeats=heartbeats)
    target = StandInTarget(device, to_device=to_device, from_device=from_device)
    return Link(target, tries=tries, first_seq=first_seq), device


def ready(link: Link) -> None:
    link.request(Command.WRITE_INPUT, INPUT)
    link.request(Command.WRITE_LABEL, LABEL)


@pytest.mark.parametrize(
    ("to_device", "from_device"),
    [
        (Script(keep, keep, lose), keep),
        (keep, Script(keep, keep, lose)),
        (Script(keep, keep, lose, lose), Script(keep, keep, keep, keep, lose)),
        (Script(keep, keep, double), keep),
        (keep, Script(keep, keep, double)),
        (Script(keep, keep, lambda data: data[:5]), keep),
        (keep, Script(keep, keep, lambda data: data[:5])),
        (Script(keep, keep, lambda data: b"\x07" + data), keep),
        (keep, Script(keep, keep, lambda data: data[:-1])),
    ],
)
def test_a_disturbed_train_trains_once(manifest: Manifest, to_device: Disturb, from_device: Disturb) -> None:
    link, device = linked(manifest, to_device, from_device)
    ready(link)
    link.request(Command.TRAIN, request_train(0.1))
    link.request(Command.STATUS)
    assert device.executed[Command.TRAIN] == 1
    assert device.steps_done == 1


def test_a_retry_repeats_the_very_bytes(manifest: Manifest) -> None:
    sent: list[bytes] = []

    def record(data: bytes) -> bytes:
        sent.append(data)
        return b"" if len(sent) < 3 else data

    link, _ = linked(manifest, record, first_seq=6)
    link.request(Command.STATUS)
    assert sent == [encode(Frame(Command.STATUS, 7)), *[b"\0" + encode(Frame(Command.STATUS, 7))] * 2]
    assert link.counts.retries == 2


def test_sequence_numbers_wrap(manifest: Manifest) -> None:
    link, device = linked(manifest, first_seq=65533)
    for _ in range(5):
        link.request(Command.STATUS)
    assert device.executed[Command.STATUS] == 5


def test_silence_is_reported_with_the_command_and_the_next_action(manifest: Manifest) -> None:
    link, _ = linked(manifest, lambda _: b"", tries=3)
    with pytest.raises(LinkTimeout, match=r"the stand-in did not answer STATUS .* 3 times .*poet flash"):
        link.request(Command.STATUS)
    assert link.counts.retries == 2


def test_garbled_and_late_and_foreign_answers_are_dropped(manifest: Manifest) -> None:
    def stray(data: bytes) -> bytes:
        late = encode(Frame(Command.STATUS | RESPONSE, 99, payload=b"old"))
        other = encode(Frame(Command.TRAIN | RESPONSE, 8, payload=b"other command"))
        return b"\x05garbage\0\0" + late + other + data

    link, _ = linked(manifest, from_device=stray, first_seq=7)
    assert len(link.request(Command.STATUS)) == DeviceStatus.LAYOUT.size
    assert (link.counts.garbled, link.counts.unexpected) == (1, 2)


def test_a_flood_of_garbage_ends_at_the_deadline(manifest: Manifest, clock: Clock) -> None:
    class Flood(StandInTarget):
        def expect(self, deadline: float) -> bytes | None:
            time.sleep(0.001)
            return b"\x01\x01noise"

    link = Link(Flood(StandIn(manifest)), timeout_s=0.05, tries=2)
    with pytest.raises(LinkTimeout, match="garbled"):
        link.request(Command.STATUS)
    assert clock.now_s == pytest.approx(2 * 0.05, abs=2 * 0.001 + 1e-9)


def test_a_refusal_carries_status_and_text(manifest: Manifest) -> None:
    link, _ = linked(manifest)
    with pytest.raises(DeviceError, match="refused TRAIN: it has no input") as caught:
        link.request(Command.TRAIN, request_train(0.1))
    assert caught.value.status == Status.NOT_READY


def test_another_protocol_version_is_an_error(manifest: Manifest) -> None:
    def newer(data: bytes) -> bytes:
        return encode(Frame(Command.STATUS | RESPONSE, 8, payload=bytes(40), abi=ABI + 1))

    link, _ = linked(manifest, from_device=newer, first_seq=7)
    with pytest.raises(ProtocolError, match=f"version {ABI + 1}"):
        link.request(Command.STATUS)


def test_a_chunk_of_the_wrong_size_is_an_error(manifest: Manifest) -> None:
    def shorter(data: bytes) -> bytes:
        return encode(Frame(Command.READ_PARAM | RESPONSE, 8, payload=b"abc"))

    link, _ = linked(manifest, from_device=shorter, first_seq=7)
    with pytest.raises(ProtocolError, match="3 bytes instead of 512"):
        DeviceClient(link, manifest).read_params()


def test_heartbeats_reach_the_callback_in_order(manifest: Manifest) -> None:
    heard: list[Heartbeat] = []
    link, _ = linked(manifest, heartbeats=3)
    link.on_heartbeat = heard.append
    ready(link)
    link.request(Command.TRAIN, request_train(0.1))
    assert [(beat.step_index, beat.steps_total) for beat in heard] == [(0, 5), (1, 5), (2, 5)]


@pytest.mark.usefixtures("clock")
def test_heartbeats_extend_the_deadline(manifest: Manifest) -> None:
    """The answer comes after five times the timeout, but a heartbeat comes in each."""
    timeout_s, beats = 0.1, 10
    beat = encode(Frame(Command.HEARTBEAT, 1, payload=Heartbeat.LAYOUT.pack(0, 1, 0)))[:-1]
    asked_until: list[float] = []

    class Slow(StandInTarget):
        def expect(self, deadline: float) -> bytes | None:
            asked_until.append(deadline)
            if len(asked_until) > beats:
                return super().expect(deadline)
            time.sleep(timeout_s / 2)
            return beat

    link = Link(Slow(StandIn(manifest)), timeout_s=timeout_s, tries=1)
    link.request(Command.STATUS)
    assert link.counts.heartbeats == beats
    assert asked_until == sorted(asked_until) and asked_until[-1] - asked_until[0] > 4 * timeout_s


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), rate=st.sampled_from([0.001, 0.01, 0.03]))
def test_noise_on_both_ways_gives_right_answers_or_an_error(manifest: Manifest, seed: int, rate: float) -> None:
    """Every answer that is accepted is the one that a quiet line gives, and every step was trained once."""
    link, device = linked(manifest, Noise(seed, rate), Noise(seed + 1, rate), tries=20)
    client, quiet = DeviceClient(link, manifest), DeviceClient(linked(manifest)[0], manifest)
    x = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4)
    try:
        for step in range(4):
            client.write_sample(x, step % 3)
            quiet.write_sample(x, step % 3)
            assert client.train(0.25) == quiet.train(0.25)
            assert client.infer().tobytes() == quiet.infer().tobytes()
            params = quiet.read_params()
            for name, value in client.read_params().items():
                assert value.tobytes() == params[name].tobytes()
    except LinkTimeout:
        assert rate > 0.001
    assert device.executed[Command.TRAIN] == device.steps_done <= 4
