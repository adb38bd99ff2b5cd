"""State of optimizers in emitted projects on this machine: it starts at zero, pages, and outlives a power cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from poet_codegen.build import write_project
from poet_codegen.graph import Kind
from poet_codegen.lower import Home
from poet_codegen.plan import Plan, make_plan, make_request
from poet_codegen.platformio.host import build_host
from poet_codegen.recipe import Dropouts, Optimizer, Recipe
from poet_hil.device import DeviceClient
from poet_hil.errors import DeviceError
from poet_hil.link import Link
from poet_hil.manifest import Build, load_build
from poet_hil.targets.host import HostTarget

from .test_dropout import classifier
from .test_on_host import BOARD, PLENTY, Maker, chain, contents, device_of

NESTEROV = Recipe(momentum=0.9, nesterov=True, weight_decay=0.01)
ADAM = Recipe(optimizer=Optimizer.ADAM, accumulate=2)


def plan_of(path: Path, recipe: Recipe, ram_bytes: int, home: Home = Home.RAM, technique: str = "both") -> Plan:
    request = make_request(path, BOARD, ram_bytes, None, home, recipe, technique, 0)
    return make_plan(request, path, threads=1, time_limit_s=10)


def built(plan: Plan, folder: Path) -> Build:
    write_project(plan, folder / "project")
    build_host(folder / "project")
    return load_build(folder)


def train(device: DeviceClient, first: int, last: int) -> list[str]:
    """Steps [first, last) with a sample and a learning rate that only depend on the step; the losses' bits."""
    losses = []
    for step in range(first, last):
        rng = np.random.default_rng(step)
        x = rng.standard_normal(device.manifest.inputs[0].shape).astype(np.float32)
        device.write_sample(x, rng.integers(0, device.manifest.label.classes, device.manifest.label.count))
        losses.append(device.train(0.02 / (1 + step % 3)).loss_bits)
    return losses


@pytest.fixture
def path(make_model: Maker, tmp_path: Path) -> Path:
    onnx.save(chain(make_model), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def run(plan: Plan, folder: Path) -> tuple[list[str], dict[str, bytes]]:
    with device_of(plan, folder) as device:
        losses = train(device, 0, 5)
        before = contents(device)
        device.infer()
        assert contents(device) == before
        assert device.status().arena_high_water_bytes == device.manifest.arena_bytes
        return losses, before


@pytest.mark.parametrize("recipe", [NESTEROV, ADAM], ids=["nesterov", "adam by 2"])
def test_bits_do_not_depend_on_the_budget(path: Path, recipe: Recipe, tmp_path: Path) -> None:
    keep = plan_of(path, recipe, PLENTY, technique="keep")
    reference = run(keep, tmp_path / "keep")
    state = {t.name for t in keep.train.graph.of_kind(Kind.STATE)}
    assert len(state) == 5 * (1 if recipe is NESTEROV else 3)
    assert all(any(reference[1][name]) for name in state if "gradient_sum" not in name), "state must move"
    peak = keep.train.schedule.peak_bytes
    homes = sum(param.size_bytes for param in keep.train.graph.params())
    lean = [plan_of(path, recipe, homes + int((peak - homes) * 0.8))]
    lean += [plan_of(path, recipe, int(peak * share), Home.STORAGE) for share in (0.6, 0.4)]
    paged = set()
    for number, plan in enumerate(lean):
        names = [tensor.name for tensor in plan.train.lowered.problem.tensors]
        paged |= {names[s.tensor] for s in plan.train.schedule.steps if type(s).__name__ == "PageIn"}
        assert run(plan, tmp_path / str(number)) == reference
    assert paged & state, "the budgets were to page state"


@pytest.mark.parametrize("home", [Home.RAM, Home.STORAGE])
def test_a_loss_that_is_not_finite_leaves_state_alone(path: Path, home: Home, tmp_path: Path) -> None:
    with device_of(plan_of(path, ADAM, PLENTY, home), tmp_path) as device:
        train(device, 0, 3)
        good = contents(device)
        shape, label = device.manifest.inputs[0].shape, device.manifest.label
        device.write_sample(np.full(shape, np.nan, np.float32), np.zeros(label.count, np.int32))
        with pytest.raises(DeviceError, match="NaN or infinite"):
            device.train(0.1)
        assert contents(device) == good


@pytest.mark.parametrize("home", [Home.RAM, Home.STORAGE])
def test_state_starts_at_zero_and_again_after_a_reset(path: Path, home: Home, tmp_path: Path) -> None:
    plan = plan_of(path, ADAM, PLENTY, home)
    with device_of(plan, tmp_path) as device:
        state = [param.name for param in device.manifest.params if param.state]
        assert len(state) == 15
        first = contents(device)
        assert all(not any(first[name]) for name in state)
        losses = train(device, 0, 3)
        moved = contents(device)
        assert all(any(moved[name]) for name in state)
        device.reset()
        assert contents(device) == first
        assert train(device, 0, 3) == losses and contents(device) == moved


@pytest.mark.parametrize("home", [Home.RAM, Home.STORAGE])
@pytest.mark.parametrize(
    ("net", "recipe"),
    [(chain, NESTEROV), (chain, ADAM), (classifier, replace(ADAM, dropout=Dropouts.ALL))],
    ids=["nesterov", "adam by 2", "adam by 2 with dropout"],
)
def test_training_goes_on_after_a_power_cut(
    make_model: Maker, net: Callable[[Maker], Any], recipe: Recipe, home: Home, tmp_path: Path
) -> None:
    """The checkpoint is between two micro-batches of an update: sums, Adam's step and masks come back too."""
    onnx.save(net(make_model), tmp_path / "m.onnx")
    build = built(plan_of(tmp_path / "m.onnx", recipe, PLENTY, home), tmp_path)

    def boot(folder: str, work: Callable[[DeviceClient], Any]) -> Any:
        with HostTarget(build, tmp_path / folder) as target:
            device = DeviceClient(Link(target), build.manifest)
            device.hello()
            return work(device)

    def first_half(device: DeviceClient) -> list[str]:
        losses = train(device, 0, 5)
        device.checkpoint()
        train(device, 5, 7)
        return losses

    def second_half(device: DeviceClient) -> tuple[list[str], dict[str, bytes]]:
        assert device.restore().steps_done == 5
        return train(device, 5, 10), contents(device)

    whole, weights = boot("whole", lambda device: (train(device, 0, 10), contents(device)))
    begun = boot("cut", first_half)
    resumed, after = boot("cut", second_half)
    assert begun + resumed == whole
    assert after == weights
