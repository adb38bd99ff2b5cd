from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from poet_hil.device import BOOT_S, EMULATED_BOOT_S, HELLO_TIMEOUT_S, DeviceClient
from poet_hil.errors import DatasetError, DeviceError, DigestMismatch, LinkError
from poet_hil.link import Link
from poet_hil.manifest import Manifest
from poet_hil.protocol import Command, Status
from poet_hil.standin import StandIn, StandInTarget

X = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)


def other(manifest: Manifest, **changes: Any) -> Manifest:
    return Manifest.model_validate({**copy.deepcopy(manifest.model_dump()), **changes})


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_digest": "0" * 32}, "model digest"),
        ({"schedule_digest": "0" * 32}, "schedule digest"),
        ({"arena_bytes": 1001}, "arena bytes"),
        ({"infer_steps": []}, "number of schedule steps"),
        ({"label": {"name": "y", "shape": [2], "dtype": "int32", "classes": 3, "bytes": 8}}, "label bytes"),
    ],
)
def test_firmware_of_another_build_is_refused(manifest: Manifest, changes: dict[str, Any], what: str) -> None:
    client = DeviceClient(Link(StandInTarget(StandIn(other(manifest, **changes)))), manifest)
    with pytest.raises(DigestMismatch, match=rf"{what}.*poet flash"):
        client.hello()


def test_hello_tells_who_is_there(device: DeviceClient) -> None:
    hello = device.hello()
    assert hello.board.rstrip(b"\0") == b"qemu_test"
    assert hello.steps_done == 0


@pytest.mark.parametrize(
    ("kind", "home", "seconds"),
    [("qemu", "ram", EMULATED_BOOT_S), ("serial", "ram", BOOT_S), ("serial", "storage", BOOT_S + 5.0)],
)
def test_a_device_that_reads_a_checkpoint_at_boot_is_greeted_for_as_long(
    manifest: Manifest, kind: str, home: str, seconds: float
) -> None:
    """A megabyte of it: five seconds more. An emulated board takes the time that this machine has for it."""
    weights = {"index": 0, "home": home, "name": "w", "shape": [250_000], "bytes": 1_000_000}
    known = other(manifest, params=[weights], board={**manifest.board.model_dump(), "kind": kind})
    tries = round(seconds / HELLO_TIMEOUT_S)
    deaf = [b""] * (tries - 1)
    link = Link(StandInTarget(StandIn(known), to_device=lambda data: deaf.pop() if deaf else data))
    DeviceClient(link, known).hello()
    assert link.counts.retries == tries - 1


def test_parameters_come_back_as_they_were_written(device: DeviceClient) -> None:
    values = {
        "conv.weight": np.random.default_rng(1).standard_normal((16, 1, 3, 3)).astype(np.float32),
        "conv.bias": np.array([0.0, -0.0, 1e-42, np.inf] * 4, dtype=np.float32),
    }
    device.write_params(values)
    back = device.read_params()
    assert list(back) == ["conv.weight", "conv.bias", "scale"]
    assert back["scale"].shape == ()
    for name, value in values.items():
        assert back[name].tobytes() == value.tobytes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"conv.weigth": np.zeros(1, np.float32)}, "no parameter 'conv.weigth'. It has: conv.weight"),
        ({"conv.bias": np.zeros(15, np.float32)}, r"shape \[16\]"),
        ({"conv.bias": np.zeros(16)}, "float64"),
        ({"scale": np.zeros((), np.float32)}, "frozen"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_before_any_is_sent(
    manifest: Manifest, values: dict[str, Any], message: str
) -> None:
    stand_in = StandIn(manifest)
    client = DeviceClient(Link(StandInTarget(stand_in)), manifest)
    with pytest.raises(LinkError, match=message):
        client.write_params({"conv.weight": np.zeros((16, 1, 3, 3), np.float32), **values})
    assert not stand_in.executed


def test_samples_that_do_not_fit_are_refused(device: DeviceClient) -> None:
    for x, y in ((X[0], 1), (X.astype(float), 1), (X, [1, 2]), (X, 1.5)):
        with pytest.raises(DatasetError):
            device.write_sample(x, y)  # type: ignore[arg-type]


def test_a_transposed_sample_is_sent_in_its_own_order(manifest: Manifest) -> None:
    stand_in = StandIn(manifest)
    x = np.swapaxes(X, 2, 3)
    DeviceClient(Link(StandInTarget(stand_in)), manifest).write_sample(x, 1)
    assert bytes(stand_in._inputs[0]) == np.ascontiguousarray(x).tobytes()


def test_training_is_deterministic_and_counted(device: DeviceClient) -> None:
    first = device.read_params()
    device.write_sample(X, 1)
    loss = device.train(0.5)
    assert (loss.steps_done, device.status().steps_done) == (1, 1)
    device.write_params({name: value for name, value in first.items() if name != "scale"})
    assert device.train(0.5).loss_bits == loss.loss_bits


def test_a_label_out_of_range_is_refused_by_the_device(device: DeviceClient) -> None:
    device.write_sample(X, 3)
    with pytest.raises(DeviceError, match="not a class") as caught:
        device.train(0.1)
    assert caught.value.status == Status.LABEL
    assert device.status().last_error == Status.LABEL


def test_checkpoint_and_restore(device: DeviceClient) -> None:
    with pytest.raises(DeviceError, match="no checkpoint"):
        device.restore()
    device.write_sample(X, 1)
    device.train(0.5)
    kept = device.read_params()
    assert device.checkpoint() == 1
    device.train(0.5)
    restored = device.restore()
    assert (restored.sequence, restored.steps_done) == (1, 1)
    assert all(value.tobytes() == kept[name].tobytes() for name, value in device.read_params().items())


def test_reset_greets_again(device: DeviceClient) -> None:
    device.write_sample(X, 1)
    device.train(0.5)
    assert device.reset().steps_done == 0


def test_a_profile_longer_than_a_frame_is_read_in_parts(manifest: Manifest) -> None:
    step = manifest.steps[0].model_dump()
    steps = [{**step, "index": n} for n in range(300)]
    longer = other(manifest, steps=steps[:299], infer_steps=steps[299:])
    stand_in = StandIn(longer)
    ticks = DeviceClient(Link(StandInTarget(stand_in)), longer).profile()
    assert ticks.tolist() == list(range(300))  # the last one of inference
    assert stand_in.executed[Command.PROFILE] == 3


def test_output_has_the_shape_of_the_manifest(device: DeviceClient) -> None:
    device.write_input(np.full((1, 1, 4, 4), 2, np.float32))
    assert device.infer().argmax() == 2
