"""Tests on a running target: `pytest hil_tests --board ID [--port PORT]`, or on a build: `--build-dir build/demo`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from poet_hil.device import DeviceClient
from poet_hil.errors import ManifestError, TargetMissing
from poet_hil.link import Link
from poet_hil.manifest import Build, load_build
from poet_hil.meters.choose import make_meter
from poet_hil.meters.switch import CommandSwitch, PowerSwitch, SwitchedTarget
from poet_hil.samples import Batch, random_batches
from poet_hil.target import Target
from poet_hil.targets.host import HostTarget
from poet_hil.targets.qemu import IMAGE_NAME, QemuTarget
from poet_hil.targets.serial import SerialTarget

BUILD_DIR = "POET_BUILD_DIR"
# Well above what an answer takes on a busy machine; only tests that lose frames wait as long.
TIMEOUT_S = 1.0
SUPPLY_V = 3.3
# To see whether there is a port at all.
BAUD = 115_200
SIZES = ((12, "28K"), (6, "8K"))
"""Channels of the digits' model and RAM to train it in, the first that fits a board."""
REPOSITORY = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hardware in the loop")
    group.addoption("--build-dir", help=f"build folder with project/manifest.json (default: ${BUILD_DIR})")
    group.addoption(
        "--board", help="id of a board, for which the digits are built, or of the build's; 'host' for its host program"
    )
    group.addoption("--exchanges", type=int, default=200, help="disturbed exchanges of test_fuzz.py")
    group.addoption("--soak-steps", type=int, default=100, help="training steps of test_soak.py")
    group.addoption("--meter", help="what supplies a real board, and can take its power away: ppk2:PORT or joulescope")
    group.addoption("--power-off", help="command that takes a real board's power away, such as uhubctl's")
    group.addoption("--power-on", help="command that gives it back")
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
def build(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder, board = build_dir(pytestconfig), pytestconfig.getoption("--board")
    given = pytestconfig.getoption("--build-dir") is not None
    if board not in (None, "host") and not given:
        folder = built_for(board, pytestconfig.getoption("--port"), tmp_path_factory.mktemp("build"))
    if folder is None:
        pytest.skip(f"nothing to test: give --board, or --build-dir, or set {BUILD_DIR}")
    try:
        build = load_build(folder)
    except ManifestError as error:
        pytest.fail(str(error), pytrace=False)
    if board not in (None, "host", build.manifest.board.id):
        pytest.fail(f"{folder} is a build for {build.manifest.board.id}, not for {board}", pytrace=False)
    return build


def built_for(board: str, port: str | None, folder: Path) -> Path:
    """The digits, planned and built for a board as a user does it, and flashed onto a real one."""
    if not board.startswith("qemu_") and not port:
        pytest.skip(f"the board {board} is real: give its --port")
    if port:
        try:
            with SerialTarget(port, BAUD):
                pass
        except TargetMissing as error:
            missing(str(error))
    for tool in ("arm-none-eabi-gcc", *(["qemu-system-arm"] if board.startswith("qemu_") else [])):
        if shutil.which(tool) is None:
            missing(f"{tool} is not installed")
    where = ["--dir", str(folder)]
    for channels, ram in SIZES:
        model = folder / f"digits{channels}.onnx"
        make_model = [sys.executable, str(REPOSITORY / "examples" / "digits" / "make_model.py")]
        subprocess.run([*make_model, str(model), "--channels", str(channels)], check=True)
        plan = ["plan", str(model), "--board", board, "--ram", ram, "--technique", "page", "--deadline", "0"]
        planned = poet(*plan, "--time-limit", "5", *where)
        if planned.returncode == 0:
            break
    else:
        pytest.fail(f"the digits do not fit {board}: {planned.stderr}", pytrace=False)
    flash = ["flash", "--port", port or "", *(["--no-upload"] if is_elsewhere(port) else [])]
    for command in (["build"], *([flash] if port else [])):
        done = poet(*command, *where)
        if done.returncode:
            pytest.fail(f"poet {command[0]}: {done.stderr}", pytrace=False)
    return folder


def is_elsewhere(port: str | None) -> bool:
    """The board hangs on another machine, which has to have flashed it: the same sources make the same firmware."""
    return port is not None and "://" in port


def poet(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "poet"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def missing(reason: str) -> NoReturn:
    """What is not there is a skip, but in CI a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


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
            switch = power_switch(pytestconfig)
            serial = SerialTarget(port, board.baud)
            return serial if switch is None else SwitchedTarget(serial, switch)
        kind = HostTarget if on_host else QemuTarget
        return kind(build, tmp_path_factory.mktemp("run"))

    return make


def power_switch(config: pytest.Config) -> PowerSwitch | None:
    """What takes a real board's power away, where the user has said how."""
    meter, off, on = (config.getoption(name) for name in ("--meter", "--power-off", "--power-on"))
    if meter:
        opened = make_meter(meter, SUPPLY_V)
        opened.open()
        config.add_cleanup(opened.close)
        return opened
    if off and on:
        return CommandSwitch(off, on)
    return None


@pytest.fixture
def power_cycled(pytestconfig: pytest.Config, build: Build, target: Target) -> None:
    """For tests of a real loss of power: a board needs something that takes it away, and storage that outlives it."""
    if isinstance(target, QemuTarget) and not (target.folder / IMAGE_NAME).exists():
        pytest.skip(f"QEMU forgets {build.manifest.board.id}'s storage when it ends")
    has_switch = any(pytestconfig.getoption(name) for name in ("--meter", "--power-off"))
    if build.manifest.board.kind == "serial" and pytestconfig.getoption("--board") != "host" and not has_switch:
        pytest.skip("nothing takes the board's power away: give --meter, or --power-off and --power-on")


@pytest.fixture(scope="session")
def target(make_target: MakeTarget, build: Build) -> Iterator[Target]:
    """The running target; one that does not answer fails here, once for all tests."""
    try:
        target = make_target()
        target.open()
    except TargetMissing as error:
        missing(str(error))
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
