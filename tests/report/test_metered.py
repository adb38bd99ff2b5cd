"""Predicted against measured in the report, and warnings about the costs of a plan."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poet_codegen.cost_model import CostModel
from poet_codegen.costs import Costs
from poet_codegen.emit.project import emit_project
from poet_codegen.folder import BuildFolder, FolderError, write_atomic
from poet_codegen.plan import Plan
from poet_codegen.report import render_report
from poet_codegen.report.inputs import read_energy
from poet_hil.energy import record
from poet_hil.manifest import Manifest
from poet_hil.meters.meter import StepEnergy

Read = Callable[[str], Any]


def energy_of(plan: Plan, folder: BuildFolder, kind: str = "measured", factor: float = 0.5) -> Any:
    """As `poet measure` leaves it: every step took `factor` of what was planned, and 10 % more in a second run."""
    manifest = Manifest.model_validate(json.loads(emit_project(plan.build_input())["manifest.json"]))
    meter: Any = types.SimpleNamespace(kind=kind, source="a test <b>bench</b>", name="bench")
    energy, time_s = (np.array([getattr(s, name) for s in manifest.steps]) for name in ("energy_j", "time_s"))
    taken = [StepEnergy(f * factor * energy, f * factor * time_s, 1e-9, 1e-6) for f in (1.0, 1.1)]
    write_atomic(folder.energy, record(manifest, meter, taken).model_dump_json())
    return read_energy(folder, plan.train.schedule.digest())


def test_predicted_stands_beside_what_was_measured(tmp_path: Path, tight: Plan, read: Read) -> None:
    page = read(render_report(tight, None, None, energy_of(tight, BuildFolder(tmp_path))))
    assert "Predicted against measured" in page.text and "a test <b>bench</b>" in page.text
    assert "2 steps, 95 % confidence" in page.text
    # Planned over the mean of 0.5 and 0.55 times as much.
    assert "+90.5 %" in page.text
    for step in ("page in", "page out", "recompute", "idle"):
        assert step in page.text


def test_modelled_is_not_called_measured(tmp_path: Path, tight: Plan, read: Read) -> None:
    page = read(render_report(tight, None, None, energy_of(tight, BuildFolder(tmp_path), "modelled")))
    assert "Predicted against modelled" in page.text and "against measured" not in page.text


def test_names_of_a_model_do_no_harm_here_either(tmp_path: Path, hostile: Plan, read: Read) -> None:
    page = read(render_report(hostile, None, None, energy_of(hostile, BuildFolder(tmp_path))))
    assert {(tag, name) for tag, name, _ in page.active} == {("a", "href")} and len(page.scripts) == 3


def test_a_record_of_another_schedule_is_refused(tmp_path: Path, tight: Plan, keep: Plan) -> None:
    folder = BuildFolder(tmp_path)
    energy_of(tight, folder)
    with pytest.raises(FolderError, match="another schedule"):
        read_energy(folder, keep.train.schedule.digest())


def test_stale_and_foreign_costs_are_warned_of(tight: Plan, read: Read) -> None:
    board = tight.board
    costs = Costs(1, "0.0.1", "another", board.cpu.core, 1_000_000, board.storage.models, "a bench", (), ())
    page = read(render_report(replace(tight, costs=CostModel(board, costs)), None, None))
    for words in ("of the board another", "taken at 1 MHz", "are not among the costs", "a bench"):
        assert words in page.text
    assert "not among" not in read(render_report(tight, None, None)).text
