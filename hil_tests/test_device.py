"""What the firmware must do on every target."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from poet_hil.device import DeviceClient
from poet_hil.errors import DeviceError, DigestMismatch
from poet_hil.link import Link
from poet_hil.manifest import Build
from poet_hil.protocol import Heartbeat, Status, text
from poet_hil.results import weights_digest
from poet_hil.target import Target
from poet_hil.targets.host import HostTarget

Sample = tuple[dict[str, NDArray[Any]], NDArray[Any]]
RATE = 0.01


def train(device: DeviceClient, samples: list[Sample]) -> list[str]:
    """Train a step on each; the losses' bits."""
    losses = []
    for x, y in samples:
        device.write_sample(x, y)
        losses.append(device.train(RATE).loss_bits)
    return losses


def infer(device: DeviceClient, x: dict[str, NDArray[Any]]) -> bytes:
    """Bits of the model's answer."""
    device.write_input(x)
    return device.infer().tobytes()


def test_hello_names_the_build(device: DeviceClient, build: Build) -> None:
    hello = device.hello()
    assert hello.steps_done == 0
    assert hello.tick_hz > 0
    assert text(hello.board) == build.manifest.board.id[:32]
    assert text(hello.tool_version) == build.manifest.tool_version[:16]


def test_firmware_of_another_build_is_refused(device: DeviceClient, build: Build) -> None:
    for field in ("model_digest", "schedule_digest"):
        other = build.manifest.model_copy(update={field: "0" * 32})
        with pytest.raises(DigestMismatch, match=r"poet flash"):
            DeviceClient(device.link, other).hello()


def test_a_step_gives_the_same_bits_twice(device: DeviceClient, build: Build, samples: list[Sample]) -> None:
    losses = train(device, samples)
    digest = weights_digest(device.read_params(), build.manifest)
    assert device.reset().steps_done == 0
    assert train(device, samples) == losses
    assert weights_digest(device.read_params(), build.manifest) == digest
    assert device.hello().steps_done == len(samples)


def test_training_moves_parameters_and_spares_frozen_ones(device: DeviceClient, samples: list[Sample]) -> None:
    before = device.read_params()
    train(device, samples)
    after = device.read_params()
    homes = {param.name: param.home for param in device.manifest.params}
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed
    assert "rom" not in {homes[name] for name in changed}


def test_losses_and_parameters_have_the_bits_of_the_host(
    device: DeviceClient,
    build: Build,
    target: Target,
    samples: list[Sample],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if isinstance(target, HostTarget):
        pytest.skip("the target is the host program itself")
    if not build.host_executable.is_file():
        pytest.skip(f"the build has no host program {build.host_executable.name}")
    with HostTarget(build, tmp_path_factory.mktemp("host")) as host_target:
        host = DeviceClient(Link(host_target), build.manifest)
        assert train(device, samples) == train(host, samples)
        expected = host.read_params()
        for name, value in device.read_params().items():
            assert value.tobytes() == expected[name].tobytes(), name
        assert device.infer().tobytes() == host.infer().tobytes()


def test_inference_changes_nothing(device: DeviceClient, build: Build, samples: list[Sample]) -> None:
    before = weights_digest(device.read_params(), build.manifest)
    device.write_input(samples[0][0])
    first = device.infer()
    assert first.shape == build.manifest.output.shape
    assert np.isfinite(first).all()
    device.write_input(samples[1][0])
    device.infer()
    device.write_input(samples[0][0])
    assert device.infer().tobytes() == first.tobytes()
    assert weights_digest(device.read_params(), build.manifest) == before


def test_inference_between_steps_leaves_training_alone(device: DeviceClient, samples: list[Sample]) -> None:
    losses = train(device, samples)
    device.reset()
    mixed = []
    for x, y in samples:
        mixed += train(device, [(x, y)])
        device.infer()
    assert mixed == losses


def test_parameters_read_back_as_written(device: DeviceClient, build: Build) -> None:
    rng = np.random.default_rng(7)
    trainable = [param for param in build.manifest.params if param.home != "rom"]
    values = {param.name: rng.standard_normal(param.shape).astype(np.float32) for param in trainable}
    device.write_params(values)
    back = device.read_params()
    for name, value in values.items():
        assert back[name].tobytes() == value.tobytes(), name


def test_written_parameters_are_those_that_train(device: DeviceClient, samples: list[Sample]) -> None:
    rom = {param.name for param in device.manifest.params if param.home == "rom"}
    initial = {name: value for name, value in device.read_params().items() if name not in rom}
    losses = train(device, samples)
    device.write_params(initial)
    assert train(device, samples) == losses


def test_a_frozen_parameter_is_refused_by_the_device_too(device: DeviceClient, build: Build) -> None:
    from poet_hil.protocol import Command, request_index_offset

    frozen = [param for param in build.manifest.params if param.home == "rom"]
    if not frozen:
        pytest.skip("the build has no frozen parameter")
    with pytest.raises(DeviceError) as caught:
        device.link.request(Command.WRITE_PARAM, request_index_offset(frozen[0].index, 0) + b"\0\0\0\0")
    assert caught.value.status == Status.RANGE


@pytest.mark.usefixtures("power_cycled")
def test_a_checkpoint_survives_a_power_cycle(device: DeviceClient, target: Target, samples: list[Sample]) -> None:
    train(device, samples[:2])
    kept = device.read_params()
    sequence = device.checkpoint()
    rest = train(device, samples[2:])
    target.reset()
    hello = device.hello()
    assert (hello.steps_done, hello.resumed_sequence) == (2, sequence)
    for name, value in device.read_params().items():
        assert value.tobytes() == kept[name].tobytes(), name
    assert train(device, samples[2:]) == rest
    assert device.hello().steps_done == len(samples)
    restored = device.restore()
    assert (restored.sequence, restored.steps_done) == (sequence, 2)


def test_the_newest_checkpoint_is_restored(device: DeviceClient, samples: list[Sample]) -> None:
    sequences = []
    for sample in samples[:3]:
        train(device, [sample])
        sequences.append(device.checkpoint())
    assert sequences == list(range(sequences[0], sequences[0] + 3))
    device.reset()
    assert device.restore().steps_done == 3


@pytest.mark.parametrize("label", [-1, "classes", 2**31 - 1, -(2**31)])
def test_a_label_out_of_range_trains_nothing(
    device: DeviceClient, build: Build, samples: list[Sample], label: int | str
) -> None:
    if not build.manifest.label.classes:
        pytest.skip("the build's labels are no classes")
    x, y = samples[0]
    wrong = y.copy()
    wrong.flat[-1] = build.manifest.label.classes if label == "classes" else label
    before = weights_digest(device.read_params(), build.manifest)
    device.write_sample(x, wrong)
    with pytest.raises(DeviceError, match="not a class") as caught:
        device.train(RATE)
    assert caught.value.status == Status.LABEL
    assert device.status().steps_done == 0
    assert weights_digest(device.read_params(), build.manifest) == before
    device.write_sample(x, y)
    assert device.train(RATE).steps_done == 1


def test_a_loss_that_is_not_finite_changes_nothing(device: DeviceClient, build: Build, samples: list[Sample]) -> None:
    """Parameters keep the bits of the last good step, and training goes on as if the bad sample had not been."""
    floats = [array.name for array in build.manifest.inputs if array.dtype == "float32"]
    if not floats:
        pytest.skip("no input of the build takes a NaN")
    x, y = samples[1]
    train(device, samples[:1])
    good = {name: value.tobytes() for name, value in device.read_params().items()}
    answer = infer(device, x)
    for bad in (np.nan, np.inf):
        device.write_sample(x | {floats[0]: np.full_like(x[floats[0]], bad)}, y)
        with pytest.raises(DeviceError, match="NaN or infinite") as caught:
            device.train(RATE)
        assert caught.value.status == Status.NOT_FINITE
        assert device.status().steps_done == 1
        assert {name: value.tobytes() for name, value in device.read_params().items()} == good
    assert infer(device, x) == answer
    rest = train(device, samples[1:])
    device.reset()
    assert train(device, samples)[1:] == rest


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_a_learning_rate_that_is_no_number_is_refused(device: DeviceClient, samples: list[Sample], rate: float) -> None:
    device.write_sample(*samples[0])
    with pytest.raises(DeviceError) as caught:
        device.train(rate)
    assert caught.value.status == Status.RANGE
    assert device.status().steps_done == 0


def test_training_before_any_input_is_refused(device: DeviceClient) -> None:
    with pytest.raises(DeviceError) as caught:
        device.train(RATE)
    assert caught.value.status == Status.NOT_READY


def test_the_step_does_what_the_schedule_says(device: DeviceClient, build: Build, samples: list[Sample]) -> None:
    train(device, samples[:1])
    planned = Counter(step.do for step in build.manifest.steps)
    status = device.status()
    assert status.page_outs == planned["page_out"]
    assert status.page_ins == planned["page_in"]
    assert status.recomputes == sum(step.recompute for step in build.manifest.steps)
    assert status.storage_errors == 0


def test_the_arena_is_used_up_to_the_planned_peak(device: DeviceClient, build: Build, samples: list[Sample]) -> None:
    train(device, samples)
    status = device.status()
    assert status.arena_high_water_bytes == build.manifest.peak_bytes
    if status.stack_bytes:
        assert 0 < status.stack_high_water_bytes < status.stack_bytes


def test_the_profile_covers_the_step(device: DeviceClient, build: Build, samples: list[Sample]) -> None:
    device.write_sample(*samples[0])
    beats: list[Heartbeat] = []
    device.link.on_heartbeat = beats.append
    ticks = device.train(RATE).ticks
    profile = device.profile()[: len(build.manifest.steps)]
    assert len(profile) == len(build.manifest.steps)
    assert 0 < profile.sum(dtype=np.uint64) <= ticks
    assert all(0 <= beat.step_index < len(profile) <= beat.steps_total for beat in beats)
