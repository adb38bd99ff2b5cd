"""Meters against stand-ins: a PPK2 that speaks its serial protocol on a pty, a Joulescope at its driver's boundary."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poet_hil.energy import KINDS, mean_of, record, student_t
from poet_hil.errors import MeterError, TargetMissing
from poet_hil.manifest import Manifest
from poet_hil.meters.choose import make_meter
from poet_hil.meters.joulescope import Joulescope
from poet_hil.meters.meter import StepEnergy, Trace, cut
from poet_hil.meters.ppk2 import RATE_HZ, Ppk2
from poet_hil.meters.switch import CommandSwitch, SwitchedTarget
from poet_hil.target import Target

from .ppk2_standin import AMPERES_A_COUNT, DEVICE_RUNNING_SET, REGULATOR_SET, SET_POWER_MODE, Ppk2StandIn

TICK_HZ = 1_000_000


class TimedDevice:
    """What a meter asks of a device: the ticks of its last step."""

    def __init__(self, manifest: Manifest, step_s: list[float]) -> None:
        self.manifest = manifest
        self._ticks = [round(seconds * TICK_HZ) for seconds in step_s]

    def hello(self) -> Any:
        return types.SimpleNamespace(tick_hz=TICK_HZ)

    def profile(self) -> np.ndarray[Any, Any]:
        return np.array([*self._ticks, 7])


def trace_of(parts: list[tuple[float, float, bool]], rate_hz: float) -> Trace:
    """Parts of (watts, seconds, marker)."""
    power = np.concatenate([np.full(round(s * rate_hz), w) for w, s, _ in parts])
    marker = np.concatenate([np.full(round(s * rate_hz), m) for _, s, m in parts])
    return Trace(power, marker, rate_hz)


def test_a_trace_is_cut_to_the_schedule_steps() -> None:
    trace = trace_of([(9.0, 0.5, False), (0.2, 0.1, True), (0.5, 0.3, True), (9.0, 0.2, False)], 1000.0)
    energy = cut(trace, np.array([0.1, 0.3]), 0.4)
    assert energy.energy_j == pytest.approx([0.02, 0.15])
    assert (energy.idle_j, energy.idle_s) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_what_lies_between_steps_is_idle() -> None:
    gap = [(0.1, 0.05, True)]
    trace = trace_of([(0, 0.1, False), *gap, (0.2, 0.1, True), *gap, (0.5, 0.3, True), (0, 0.1, False)], 1000.0)
    energy = cut(trace, np.array([0.1, 0.3]), 0.5)
    assert energy.energy_j == pytest.approx([0.02, 0.15])
    assert (energy.idle_j, energy.idle_s) == pytest.approx((0.01, 0.1))


def test_the_meter_s_clock_decides() -> None:
    """The device's clock is 1 % slow: its seconds are shorter than the meter's."""
    trace = trace_of([(0, 0.1, False), (0.2, 0.1, True), (0.5, 0.3, True), (0, 0.1, False)], 10_000.0)
    energy = cut(trace, np.array([0.099, 0.297]), 0.396)
    assert energy.energy_j == pytest.approx([0.02, 0.15], rel=1e-6)
    assert energy.time_s.sum() == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("parts", "total_s", "said"),
    [
        ([(0.1, 0.5, False)], 0.1, "changed 0 times"),
        ([(0.1, 0.1, True), (0.1, 0.1, False)], 0.1, "changed 1 times"),
        ([(0.1, 0.1, False), (0.1, 0.2, True), (0.1, 0.1, False)], 0.1, "says the step took 0.100000 s"),
    ],
)
def test_a_marker_that_is_not_wired_is_an_error(parts: Any, total_s: float, said: str) -> None:
    with pytest.raises(MeterError, match=said):
        cut(trace_of(parts, 1000.0), np.array([total_s]), total_s)


@pytest.fixture
def ppk2() -> Iterator[Ppk2StandIn]:
    pytest.importorskip("ppk2_api")
    stand_in = Ppk2StandIn()
    yield stand_in
    stand_in.close()


def play(stand_in: Ppk2StandIn, counts: list[int], samples: int, lose: bool = False) -> Callable[[], int]:
    """A training step whose schedule steps take `samples` samples each, at a current of so many counts."""

    def train() -> int:
        stand_in.play(10, 1000, marker=False)
        for count in counts:
            stand_in.play(count, samples, marker=True)
        if lose:
            stand_in.skip()
        stand_in.play(10, 1000, marker=False)
        return round(len(counts) * samples / RATE_HZ * TICK_HZ)

    return train


def test_a_ppk2_measures_each_schedule_step(ppk2: Ppk2StandIn, manifest: Manifest) -> None:
    counts, samples = [1000, 4000, 2000, 8000], 3000
    device: Any = TimedDevice(manifest, [samples / RATE_HZ] * 4)
    with make_meter(f"ppk2:{ppk2.port}", supply_v=2.0) as meter:
        taken = [meter.watch(device, play(ppk2, counts, samples)) for _ in range(2)]
        meter.power(False)
        ppk2.wait_for(bytes([DEVICE_RUNNING_SET, 0]))
        expected = np.array(counts) * AMPERES_A_COUNT * 2.0 * samples / RATE_HZ
        for step in taken:
            assert step.energy_j == pytest.approx(expected, rel=1e-6)
            assert step.idle_j == pytest.approx(0.0, abs=1e-9)
        summary = record(manifest, meter, taken)
    assert summary.kind == "measured" and "PPK2" in summary.source
    assert [summary.by_kind_j[kind].mean for kind in KINDS] == pytest.approx([*expected[[0, 3, 2, 1]], 0.0], abs=1e-9)
    assert summary.energy_j.mean == pytest.approx(expected.sum())
    # 2000 mV: 3 + 1232 // 256, 1232 % 256 of the regulator's steps from 800 mV at 32.
    wanted = [bytes([SET_POWER_MODE, 2]), bytes([REGULATOR_SET, 7, 208]), bytes([DEVICE_RUNNING_SET, 1])]
    assert [c for c in ppk2.commands if c[0] in (SET_POWER_MODE, REGULATOR_SET, DEVICE_RUNNING_SET)] == [
        *wanted,
        bytes([DEVICE_RUNNING_SET, 0]),
    ]


def test_a_ppk2_that_loses_samples_is_an_error(ppk2: Ppk2StandIn, manifest: Manifest) -> None:
    device: Any = TimedDevice(manifest, [0.01])
    with Ppk2(ppk2.port, 3.3) as meter, pytest.raises(MeterError, match="lost 1 samples"):
        meter.watch(device, play(ppk2, [1000], 1000, lose=True))


def test_a_port_without_a_ppk2_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("ppk2_api")
    with pytest.raises(MeterError, match="no PPK2 on"):
        Ppk2(str(tmp_path / "ttyACM9"), 3.3).open()
    silent = Ppk2StandIn(meta="")
    try:
        with pytest.raises(MeterError, match="does not answer as a PPK2"):
            Ppk2(silent.port, 3.3).open()
    finally:
        silent.close()


@pytest.mark.parametrize(("name", "module"), [("ppk2:/dev/null", "ppk2_api"), ("joulescope", "pyjoulescope_driver")])
def test_a_missing_package_is_an_error_with_the_command(monkeypatch: Any, name: str, module: str) -> None:
    for known in [known for known in sys.modules if known.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MeterError, match=r"pip install 'poet-mcu\["):
        make_meter(name, 3.3).open()


def test_an_unknown_meter_is_an_error() -> None:
    with pytest.raises(MeterError, match="ppk2:PORT"):
        make_meter("multimeter", 3.3)


class FakeDriver:
    """pyjoulescope_driver.Driver, as far as it is used: its topics, its blocks of samples with numbers.

    USB cannot be played on a pty, and the driver has libusb inside, so that this stands in at the library's boundary.
    """

    paths = ("u/js220/000123",)
    drop = 0

    def __init__(self) -> None:
        self.published: list[tuple[str, object]] = []
        self.subscribed: dict[str, Callable[[str, dict[str, Any]], None]] = {}
        self.finalized = False

    def device_paths(self) -> list[str]:
        return list(self.paths)

    def open(self, path: str) -> None:
        assert path in self.paths

    def close(self, path: str) -> None:
        assert path in self.paths

    def finalize(self) -> None:
        self.finalized = True

    def publish(self, topic: str, value: object) -> None:
        self.published.append((topic, value))

    def subscribe(self, topic: str, flags: list[str], callback: Any) -> None:
        assert flags == ["pub"]
        self.subscribed[topic] = callback

    def unsubscribe(self, topic: str, callback: Any) -> None:
        assert self.subscribed.pop(topic) is callback, "the driver knows functions by their addresses"

    def play(self, power_w: np.ndarray[Any, Any], marker: np.ndarray[Any, Any]) -> None:
        """Blocks of unequal sizes; sample numbers count at twice the rate, as a JS220's do."""
        for topic, data, block in (("p", power_w.astype(np.float32), 700), ("gpi/0", marker, 1001)):
            for start in range(0, len(data), block):
                part = data[start : start + block]
                value = {
                    "sample_id": 2 * (5000 + start + (self.drop if start else 0)),
                    "decimate_factor": 2,
                    "sample_rate": 2_000_000,
                    "data": np.packbits(part, bitorder="little") if topic == "gpi/0" else part,
                }
                self.subscribed[f"{self.paths[0]}/s/{topic}/!data"](topic, value)


@pytest.fixture
def joulescope(monkeypatch: pytest.MonkeyPatch) -> type[FakeDriver]:
    class Driver(FakeDriver):
        made: FakeDriver

        def __init__(self) -> None:
            super().__init__()
            Driver.made = self

    module = types.ModuleType("pyjoulescope_driver")
    monkeypatch.setattr(module, "Driver", Driver, raising=False)
    monkeypatch.setitem(sys.modules, "pyjoulescope_driver", module)
    return Driver


def test_a_joulescope_measures_each_schedule_step(joulescope: Any, manifest: Manifest) -> None:
    trace = trace_of(
        [(9, 0.002, False), *((w, 0.003, True) for w in (0.1, 0.4, 0.2, 0.3)), (9, 0.002, False)], 1_000_000.0
    )
    device: Any = TimedDevice(manifest, [0.003] * 4)

    def train() -> int:
        joulescope.made.play(trace.power_w, trace.marker)
        return round(0.012 * TICK_HZ)

    with make_meter("joulescope:000123", 3.3) as meter:
        step = meter.watch(device, train)
        meter.power(False)
    assert step.energy_j == pytest.approx([0.0003, 0.0012, 0.0006, 0.0009], rel=1e-5)
    published = joulescope.made.published
    assert ("u/js220/000123/s/gpi/0/ctrl", 1) in published and ("u/js220/000123/s/gpi/0/ctrl", 0) in published
    assert published[-1] == ("u/js220/000123/s/i/range/mode", "off")
    assert joulescope.made.finalized and not joulescope.made.subscribed


def test_a_joulescope_that_loses_samples_is_an_error(joulescope: Any, manifest: Manifest) -> None:
    joulescope.drop = 3
    trace = trace_of([(9, 0.002, False), (0.1, 0.003, True), (9, 0.002, False)], 1_000_000.0)
    device: Any = TimedDevice(manifest, [0.003])

    def train() -> int:
        joulescope.made.play(trace.power_w, trace.marker)
        return 3000

    with make_meter("joulescope", 3.3) as meter, pytest.raises(MeterError, match="lost 3 samples"):
        meter.watch(device, train)


def test_a_joulescope_is_what_its_driver_expects(monkeypatch: pytest.MonkeyPatch, manifest: Manifest) -> None:
    """With the driver's own publishing and subscribing, of which only the instrument is played."""
    package = pytest.importorskip("pyjoulescope_driver", reason="pip install 'poet-mcu[joulescope]'")

    class Driver(FakeDriver):
        def __init__(self) -> None:
            super().__init__()
            self.real = package_driver()

        def finalize(self) -> None:
            self.real.finalize()

        def publish(self, topic: str, value: object) -> None:
            self.real.publish(topic, value, timeout=0)  # no instrument answers

        def subscribe(self, topic: str, flags: list[str], callback: Any) -> None:
            super().subscribe(topic, flags, callback)
            self.real.subscribe(topic, flags, callback)

        def unsubscribe(self, topic: str, callback: Any) -> None:
            super().unsubscribe(topic, callback)
            self.real.unsubscribe(topic, callback)

    package_driver = package.Driver
    with pytest.raises(MeterError, match=r"0 of \d+ Joulescopes fit 'none of these'"):
        make_meter("joulescope:none of these", 3.3).open()
    monkeypatch.setattr(package, "Driver", Driver)
    trace = trace_of([(9, 0.002, False), (0.1, 0.012, True), (9, 0.002, False)], 1_000_000.0)
    device: Any = TimedDevice(manifest, [0.003] * 4)
    with Joulescope("000123") as meter:

        def train() -> int:
            meter._driver.play(trace.power_w, trace.marker)
            return 12_000

        for _ in range(2):
            assert meter.watch(device, train).energy_j == pytest.approx([0.0003] * 4, rel=1e-5)
        meter.power(False)


@pytest.mark.parametrize(("paths", "name"), [((), "joulescope"), (("u/js220/1", "u/js220/2"), "joulescope")])
def test_no_or_two_joulescopes_are_an_error(joulescope: Any, paths: tuple[str, ...], name: str) -> None:
    joulescope.paths = paths
    with pytest.raises(MeterError, match=f"of {len(paths)} Joulescopes"):
        make_meter(name, 3.3).open()


def test_student_s_t_is_scipy_s() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in (*range(1, 31), 40, 100, 1000):
        assert student_t(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=2e-4)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    held = [abs((m := mean_of(rng.normal(5.0, 2.0, 6))).mean - 5.0) <= m.ci95 for _ in range(2000)]
    assert 0.935 < np.mean(held) < 0.965
    assert mean_of(np.array([3.0])).ci95 == 0.0


def test_steps_that_differ_widen_the_interval(manifest: Manifest) -> None:
    meter: Any = types.SimpleNamespace(kind="modelled", source="test", name="test")
    taken = [StepEnergy(np.full(4, x), np.full(4, 1.0), x, 0.0) for x in (1.0, 2.0, 3.0)]
    summary = record(manifest, meter, taken)
    assert summary.energy_j.mean == pytest.approx(10.0)
    assert summary.energy_j.ci95 == pytest.approx(4.3027 * 5.0 / 3**0.5)
    assert summary.schedule[3].kind == "recompute" and summary.schedule[3].energy_j.mean == pytest.approx(2.0)


class CountedTarget(Target):
    """A target that is missing for its first few openings."""

    name = "counted"

    def __init__(self, missing: int, log: list[str]) -> None:
        self.missing = missing
        self.done = log

    def open(self) -> None:
        self.done.append("open")
        if self.missing:
            self.missing -= 1
            raise TargetMissing("no port yet")

    def send(self, data: bytes) -> None:
        self.done.append("send")

    def expect(self, deadline: float) -> bytes | None:
        return None

    def reset(self) -> None:
        raise AssertionError("the power does that")

    def close(self) -> None:
        self.done.append("close")


def test_a_switched_target_is_power_cycled() -> None:
    log: list[str] = []
    meter: Any = types.SimpleNamespace(power=lambda on: log.append("on" if on else "off"))
    behind = CountedTarget(0, log)
    target = SwitchedTarget(behind, meter, off_s=0.0)
    with target:
        behind.missing = 2
        target.reset()
        target.send(b"x")
    assert log == ["on", "open", "close", "off", "on", "open", "open", "open", "send", "close"]


def test_power_commands_run_and_fail_loudly(tmp_path: Path) -> None:
    switch = CommandSwitch(off=f"touch {tmp_path / 'off'}", on=f"{sys.executable} -c 'raise SystemExit(3)'")
    switch.power(False)
    assert (tmp_path / "off").exists()
    with pytest.raises(MeterError, match="exit code 3"):
        switch.power(True)
    with pytest.raises(MeterError, match="cannot be run"):
        CommandSwitch(off="no-such-relay 0", on="true").power(False)
