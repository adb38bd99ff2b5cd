"""Tests on a running target: `pytest hil_tests --build-dir build/demo [--board ID|host] [--port PORT]`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from poet_hil.device import DeviceClient
from poet_hil.errors import ManifestError, TargetMissing
from poet_hil.link import Link
from poet_hil.manifest import Build, Input, Manifest, load_build
from poet_hil.target import Target
from poet_hil.targets.host import HostTarget
from poet_hil.targets.qemu import QemuTarget
from poet_hil.targets.serial import SerialTarget

BUILD_DIR = "POET_BUILD_DIR"
# Well above what an answer takes on a busy machine; only tests that lose frames wait as long.
TIMEOUT_S = 1.0

Sample = tuple[dict[str, NDArray[Any]], NDArray[Any]]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hardware in the loop")
    group.addoption("--build-dir", help=f"build folder with project/manifest.json (default: ${BUILD_DIR})")
    group.addoption("--board", help="id of the build's board, or 'host' for its host program")
    group.addoption("--port", help="port of a real board: /dev/ttyACM0, COM3, rfc2217://host:port")


def build_dir(config: pytest.Config) -> Path | None:
    given = config.getoption("--build-dir") or os.environ.get(BUILD_DIR)
    return Path(given) if given else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what will run on QEMU, so that `-m 'not emulated'` leaves it out."""
    if config.getoption("--port") or config.getoption("--board") == "host":
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.emulated)


@pytest.fixture(scope="session")
def build(pytestconfig: pytest.Config) -> Build:
    folder = build_dir(pytestconfig)
    if folder is None:
        pytest.skip(f"no build to test: give --build-dir or set {BUILD_DIR}")
    try:
        build = load_build(folder)
    except ManifestError as error:
        pytest.fail(str(error), pytrace=False)
    board = pytestconfig.getoption("--board")
    if board not in (None, "host", build.manifest.board.id):
        pytest.fail(f"{folder} is a build for {build.manifest.board.id}, not for {board}", pytrace=False)
    return build


MakeTarget = Callable[[], Target]


@pytest.fixture(scope="session")
def make_target(pytestconfig: pytest.Config, build: Build, tmp_path_factory: pytest.TempPathFactory) -> MakeTarget:
    """Make the target that was asked for; a started one has a storage of its own."""
    port = pytestconfig.getoption("--port")
    board = build.manifest.board
    on_host = pytestconfig.getoption("--board") == "host" or board.kind == "host"
    if board.kind == "serial" and not on_host and not port:
        pytest.skip(f"the board {board.id} is real: give its --port")

    def make() -> Target:
        if port:
            return SerialTarget(port, board.baud)
        kind = HostTarget if on_host else QemuTarget
        return kind(build, tmp_path_factory.mktemp("run"))

    return make


@pytest.fixture(scope="session")
def target(make_target: MakeTarget, build: Build) -> Iterator[Target]:
    """The running target; one that does not answer fails here, once for all tests."""
    try:
        target = make_target()
        target.open()
    except TargetMissing as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    with target:
        DeviceClient(Link(target), build.manifest).hello()
        yield target


@pytest.fixture
def device(target: Target, build: Build) -> DeviceClient:
    """The device as after a reset: initial parameters, no step trained. Checkpoints of other tests stay."""
    client = DeviceClient(Link(target, timeout_s=TIMEOUT_S), build.manifest)
    client.hello()
    client.reset()
    return client


def _drawn(rng: np.random.Generator, array: Input) -> NDArray[Any]:
    if array.dtype == "float32":
        return rng.random(array.shape, dtype=np.float32)
    first, end = array.index_range or (0, 2)
    return rng.integers(first, end, array.shape, np.int32)


def _labels(rng: np.random.Generator, manifest: Manifest) -> NDArray[Any]:
    """Classes, or numbers that are probabilities along the last axis: every loss takes them."""
    label = manifest.label
    if label.classes:
        return rng.integers(label.classes, size=label.shape, dtype=np.int32)
    numbers = rng.random(label.shape, dtype=np.float32)
    return np.asarray(numbers / numbers.sum(axis=-1, keepdims=True), np.float32)


@pytest.fixture(scope="session")
def samples(build: Build) -> list[Sample]:
    """A few batches that the model can be trained on."""
    rng = np.random.default_rng(20220717)
    manifest = build.manifest
    return [
        (
            {array.name: _drawn(rng, array) for array in manifest.inputs},
            _labels(rng, manifest),
        )
        for _ in range(5)
    ]
