"""A device on a line that disturbs bytes anywhere: no hang, no crash, no wrong answer accepted.

--exchanges N sets how many disturbed exchanges there are (`make fuzz`: 10,000 on a build with sanitizers, and on QEMU).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from poet_hil.device import DeviceClient
from poet_hil.errors import LinkTimeout
from poet_hil.manifest import Build
from poet_hil.noise import Disturbed, NoisyTarget, disturb
from poet_hil.protocol import Command, Status, TrainStep, encode, request_span, request_train
from poet_hil.protocol import Frame as ProtocolFrame
from poet_hil.results import weights_digest
from poet_hil.samples import Batch

RATE = 0.01
SHARE = 0.4
# A request survives when one try of these comes through; at SHARE one in three does. The rest are for a machine that
# stands still for seconds.
TRIES = 1000
# On a quiet line an answer takes a few milliseconds; only what is lost waits as long.
TIMEOUT_S = 0.03
TRAIN_TIMEOUT_S = 0.1
# Tries, time-outs and the grace that a heartbeat gives.
MOST_S = 300.0


@pytest.fixture
def exchanges(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--exchanges"))


@pytest.fixture
def line(device: DeviceClient) -> Iterator[NoisyTarget]:
    """Between the device and its target, and quiet."""
    target = device.link.target
    noisy = NoisyTarget(target, seed=20, share=0.0)
    before = device.link.timeout_s, device.link.tries
    device.link.target = noisy
    device.link.timeout_s, device.link.tries = TIMEOUT_S, TRIES
    yield noisy
    device.link.target = target
    device.link.timeout_s, device.link.tries = before
    # What was late must not reach the next test's commands.
    device.hello()


def train(device: DeviceClient) -> TrainStep:
    """As DeviceClient.train(), with a time-out that this line needs."""
    return TrainStep.unpack(device.link.request(Command.TRAIN, request_train(RATE), timeout_s=TRAIN_TIMEOUT_S))


def infer(device: DeviceClient) -> bytes:
    """Bits of the answer; likewise."""
    device.link.request(Command.INFER, timeout_s=TRAIN_TIMEOUT_S)
    return device.link.read(Command.READ_OUTPUT, request_span, device.manifest.output.bytes)


class Script:
    """What a host does, round and round; each answer is known from a quiet line."""

    def __init__(self, device: DeviceClient, samples: list[Batch]) -> None:
        self.device = device
        self.samples = samples
        small = sorted(device.manifest.params, key=lambda param: param.bytes)
        self.written = next(param for param in small if param.home != "rom")
        rng = np.random.default_rng(4)
        self.values: NDArray[Any] = rng.standard_normal(self.written.shape).astype(np.float32)

    def actions(self) -> Iterator[Callable[[], object]]:
        """A round: every action returns what has to be the same on any line."""
        device = self.device
        for x, y in self.samples[:2]:
            yield partial(device.write_sample, x, y)
            yield lambda: (lambda step: (step.loss_bits, step.steps_done))(train(device))
            yield lambda: infer(device)
            yield lambda: device.read_param(self.written).tobytes()
            yield lambda: (device.status().steps_done, device.status().storage_errors)
        yield lambda: device.write_params({self.written.name: self.values})
        yield lambda: device.read_param(self.written).tobytes()


def test_a_noisy_line_gives_no_wrong_answer(
    device: DeviceClient, line: NoisyTarget, build: Build, samples: list[Batch], exchanges: int
) -> None:
    """Whole rounds on a noisy line, each from a reset, until enough exchanges were disturbed."""
    script = Script(device, samples)

    def round_of(share: float) -> tuple[list[object], str]:
        line.share = 0.0
        device.reset()
        line.share = share
        answers = []
        for action in script.actions():
            begun = time.monotonic()
            answers.append(action())
            assert time.monotonic() - begun < MOST_S
        line.share = 0.0
        return answers, weights_digest(device.read_params(), build.manifest)

    quiet = round_of(0.0)
    disturbed = 0
    while disturbed < exchanges:
        before = line.disturbed
        assert round_of(SHARE) == quiet
        disturbed += line.disturbed - before
    assert device.link.counts.garbled + device.status().frames_dropped > 0
    assert device.link.counts.retries > exchanges // 20


def disturb_at(kind: str, at: int, data: bytes) -> Disturbed:
    """Disturb a frame at a byte, or at its last one where it is shorter."""
    return disturb(kind, data, min(at, len(data) - 1), noise=0)


@pytest.mark.parametrize("way", ["to", "from"])
@pytest.mark.parametrize("kind", ["lose", "cut", "double", "delay", "flip"])
def test_a_byte_disturbed_anywhere_in_a_training_step_is_survived(
    device: DeviceClient, line: NoisyTarget, samples: list[Batch], way: str, kind: str
) -> None:
    """Every place of the request, and of the answer: each step is trained once, its loss is right."""
    frame = encode(ProtocolFrame(Command.TRAIN, 1, Status.OK, request_train(RATE)))
    answer = encode(ProtocolFrame(Command.TRAIN, 1, Status.OK, bytes(TrainStep.LAYOUT.size)))
    places = range(len(frame) if way == "to" else len(answer) - 1)
    device.write_sample(*samples[0])
    losses = [device.train(RATE).loss_bits for _ in places]
    device.reset()
    device.write_sample(*samples[0])
    for at in places:
        line.once[way] = partial(disturb_at, kind, at)
        step = train(device)
        assert (step.loss_bits, step.steps_done) == (losses[at], at + 1), at
        assert not line.once, at
    assert device.status().steps_done == len(places)


def test_a_line_that_is_cut_is_reported_in_time(device: DeviceClient, line: NoisyTarget) -> None:
    device.link.tries = 3
    line.is_cut = True
    begun = time.monotonic()
    with pytest.raises(LinkTimeout, match="3 times over"):
        device.status()
    assert 3 * TIMEOUT_S <= time.monotonic() - begun < MOST_S
