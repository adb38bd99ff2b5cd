"""Tests on a running target: `pytest hil_tests --build-dir build/demo [--board ID|host] [--port PORT]`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from poet_hil.device import DeviceClient
from poet_hil.errors import ManifestError, TargetMissing
from poet_hil.link import Link
from poet_hil.manifest import Build, load_build
from poet_hil.samples import Batch, random_batches
from poet_hil.target import Target
from poet_hil.targets.host import HostTarget
from poet_hil.targets.qemu import QemuTarget
from poet_hil.targets.serial import SerialTarget

BUILD_DIR = "POET_BUILD_DIR"
# Well above what an answer takes on a busy machine; only tests that lose frames wait as long.
TIMEOUT_S = 1.0


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hardware in the loop")
    group.addoption("--build-dir", help=f"build folder with project/manifest.json (default: ${BUILD_DIR})")
    group.addoption("--board", help="id of the build's board, or 'host' for its host program")
    group.addoption("--exchanges", type=int, default=200, help="disturbed exchanges of test_fuzz.py")
    group.addoption("--soak-steps", type=int, default=100, help="training steps of test_soak.py")
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
    """The device anew: initial parameters, no step trained, no checkpoint."""
    client = DeviceClient(Link(target, timeout_s=TIMEOUT_S), build.manifest)
    client.hello()
    client.init()
    client.reset()
    return client


@pytest.fixture(scope="session")
def samples(build: Build) -> list[Batch]:
    """A few batches that the model can be trained on."""
    return random_batches(build.manifest, 5, seed=20220717)
