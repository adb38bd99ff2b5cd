"""The benchmark's verdicts: a figure that is worse than asked is called short."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("solver_report", BENCHMARKS / "solver_report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["solver_report"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def row(**changes: Any) -> dict[str, Any]:
    good = {
        "found": True,
        "what": "both",
        "overhead_percent": 1.08951,
        "energy_j": 1.0108951,
        "base_energy_j": 1.0,
        "bound_percent": 0.9,
        "gap_percent": 0.19,
        "overhead_gap_percent": 0.19,
        "other_bounds": [{"family": "listed", "bound_percent": 1.0895, "gap_percent": 0.00001}],
        "order_gain_percent": 0.0,
        "first_schedule_s": 0.1,
        "found_s": [[0.1, 1.02], [0.5, 1.0108951]],
        "proven_s": {"listed": 2.0, "all": 4.0},
        "seconds": 5.0,
        "arena_bytes": 100,
        "peak_bytes": 100,
    }
    return good | changes


@pytest.mark.parametrize(
    ("change", "short"),
    [
        ({}, 0),
        ({"overhead_percent": 1.0896}, 1),
        ({"gap_percent": 1.01}, 1),
        ({"other_bounds": []}, 1),
        ({"first_schedule_s": 2.1}, 1),
        ({"arena_bytes": 104}, 1),
        ({"found": False}, 1),
    ],
)
def test_a_figure_worse_than_asked_is_short(report: ModuleType, change: dict[str, Any], short: int) -> None:
    found = report.verdicts({"linear 0.5 both": row(**change)})
    assert sum(not verdict.is_met for verdict in found) == short


def test_times_are_those_of_the_first_schedule_as_good(report: ModuleType) -> None:
    poets = {"found": True, "proven": True, "energy_j": 1.0108951, "seconds": 11.0, "solver": "CP-SAT"}
    found = report.verdicts({"linear 0.5 both": row(), "linear 0.5 poet": poets})
    texts = {verdict.what: verdict.is_met for verdict in found}
    assert texts["as good a schedule 22.0 >= 20 times faster than POET's proof"]
    assert not texts["proof over all schedules 2.8 >= 20 times faster than POET's proof"]


def test_gain_of_the_wide_family_counts_from_the_known_optimum(report: ModuleType) -> None:
    asked = report.ASKED["linear", "0.5"]
    assert report.wide_gain_percent(row(), asked) == pytest.approx(0.0, abs=1e-4)
    gain = 100 * (1 - 1 / 0.995 / 1.0108955)
    assert report.wide_gain_percent(row(energy_j=1.0, order_gain_percent=0.5), asked) == pytest.approx(gain, abs=1e-6)
    assert report.wide_gain_percent(row(), report.ASKED["bert", "0.5"]) is None
