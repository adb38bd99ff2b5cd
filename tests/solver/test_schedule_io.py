"""schedule.json: written, read back the same, and refused with the field's name when malformed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from poet_solver.errors import ProblemError
from poet_solver.schedule import Compute, Costs, Free, PageIn, PageOut, Schedule, Status
from poet_solver.schedule_io import parse_schedule, read_schedule, schedule_to_json

SCHEDULE = Schedule(
    problem_digest="ab" * 32,
    status=Status.FEASIBLE,
    steps=(
        Compute(0, 0, (4,), 8),
        PageOut(0),
        Free(0),
        PageIn(0, 4),
        Compute(1, 1, (0, None)),
        Compute(0, 0, (4,), 8),
    ),
    energy=Costs(1.0, 0.5, 0.25, 0.25, 0.125),
    time=Costs(2.0),
    wear_bytes=3.0,
    peak_bytes=100,
    arena_bytes=104,
    lower_bound_j=2.0,
    bound_family="all",
    solve_s=0.5,
    notes=("one",),
)


def test_round_trip(tmp_path: Path) -> None:
    text = schedule_to_json(SCHEDULE)
    assert parse_schedule(text) == SCHEDULE
    (tmp_path / "s.json").write_text(text)
    assert read_schedule(tmp_path / "s.json") == SCHEDULE


def test_keys() -> None:
    data = json.loads(schedule_to_json(SCHEDULE))
    assert data["status"] == "feasible" and data["energy_j"] == 2.125 and data["time_s"] == 2.0
    assert data["gap"] == pytest.approx(0.125 / 2.125)
    assert data["counts"] == {"compute": 2, "recompute": 1, "page_out": 1, "page_in": 1, "free": 1}
    assert data["steps"][0] == {"do": "compute", "op": 0, "mode": 0, "offset": 4, "workspace_offset": 8}
    assert data["steps"][4]["offsets"] == [0, None]
    assert {"peak_bytes", "arena_bytes", "lower_bound_j", "solve_s", "energy_by_kind_j"} <= set(data)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("status",), "best", "status"),
        (("peak_bytes",), "many", "peak_bytes"),
        (("lower_bound_j",), None, "lower_bound_j"),
        (("energy_by_kind_j", "idle"), "x", "energy_by_kind_j: idle"),
        (("steps",), 3, "steps"),
        (("steps", 0), 3, r"steps\[0\]"),
        (("steps", 0, "do"), "nap", r"steps\[0\].do"),
        (("steps", 0, "op"), -1, r"steps\[0\].op"),
        (("steps", 0, "offset"), "low", r"steps\[0\].offset"),
        (("steps", 3, "offset"), None, r"steps\[3\].offset"),
        (("steps", 1, "tensor"), "nobody", r"steps\[1\].tensor"),
    ],
)
def test_malformed_files_name_the_field(path: tuple[str | int, ...], value: Any, field: str) -> None:
    data = json.loads(schedule_to_json(SCHEDULE))
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ProblemError, match=field):
        parse_schedule(json.dumps(data))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="cannot be read"):
        read_schedule(tmp_path / "none.json")
    with pytest.raises(ProblemError, match="not JSON"):
        parse_schedule("{")
    with pytest.raises(ProblemError, match="object"):
        parse_schedule("[]")
