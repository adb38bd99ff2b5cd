"""`poet profile` and `poet plan --costs`: after one pass, a step costs what the plan said."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from poet_codegen.cli.app import app
from poet_codegen.cli.profile_command import profiled
from poet_codegen.costs import read_costs
from poet_codegen.cover import NEAR, Cover
from poet_codegen.folder import BuildFolder
from poet_codegen.plan import load_plan
from poet_hil.energy import EnergyRecord
from poet_hil.manifest import load_build
from poet_hil.samples import random_batches
from typer.testing import CliRunner

from .test_whole_path import MODEL, need_tools


def poet(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.mark.emulated
def test_a_plan_with_costs_predicts_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned from the cycle table within 25 %, from a profile of another schedule within 3 %."""
    need_tools()
    first, second = tmp_path / "first", tmp_path / "second"
    plan = ["plan", str(MODEL), "--board", "qemu_mps2_an386", "--deadline", "0", "--time-limit", "5"]
    poet(*plan, "--ram", "24K", "--dir", str(first))
    poet("build", "--dir", str(first))
    time_off, energy_off = _off(first)
    assert max(time_off, energy_off) < 0.25
    said = poet("profile", "--dir", str(first), "--runs", "2", "--modes", "used")
    assert "modelled: instructions executed in QEMU" in said
    costs = read_costs(first / "costs.json")
    assert {entry.source for entry in (*costs.kernels, *costs.pages)} == {"modelled"}
    said = poet(*plan, "--ram", "20K", "--costs", str(first / "costs.json"), "--dir", str(second))
    assert "Warning" not in said
    poet("build", "--dir", str(second))
    time_off, energy_off = _off(second)
    assert max(time_off, energy_off) < 0.03
    assert "Modelled: instructions executed in QEMU" in poet("measure", "--dir", str(second), "--steps", "3")
    record = EnergyRecord.model_validate_json((second / "run" / "energy.json").read_bytes())
    assert (record.kind, record.steps, record.by_kind_j["idle"].mean) == ("modelled", 3, 0.0)
    assert record.by_kind_j["page_out"].mean > 0 < record.by_kind_j["recompute"].mean
    assert abs(record.planned_j / record.energy_j.mean - 1.0) < 0.03
    assert "Predicted against modelled" in (second / "report.html").read_text(encoding="utf-8")
    # Modes that this schedule does not use: one further build shows the way, all of them would take minutes.
    search = Cover.next
    monkeypatch.setattr(Cover, "next", lambda *of: None if of[2] else search(*of))
    said = poet("profile", "--dir", str(second), "--runs", "1", "--modes", "near")
    planned = load_plan(BuildFolder(second))
    used, wanted = Cover(planned).run_by(planned), Cover(planned).modes(NEAR)
    costs = read_costs(second / "costs.json")
    run = wanted & {entry.kernel for entry in costs.kernels}
    told = re.search(r"; (\d+) of (\d+) modes of ops$", costs.source)
    assert told is not None
    # Inference may run some that training does not, which count only once training has run them.
    assert len(used) < int(told[1]) <= len(used | run) < len(used | wanted) <= int(told[2])
    assert f"{told[1]} of {told[2]}, in 1 further builds" in said and "--modes all takes" in said


@pytest.mark.emulated
def test_a_core_without_an_fpu_is_profiled(tmp_path: Path) -> None:
    """Its floating point is the instructions of the compiler's library, and its markers are those of ARMv6-M."""
    need_tools()
    make_model = [sys.executable, str(MODEL.parent / "make_model.py"), str(tmp_path / "small.onnx"), "--channels", "6"]
    subprocess.run(make_model, check=True)
    plan = ["plan", str(tmp_path / "small.onnx"), "--board", "qemu_microbit", "--ram", "8K", "--technique", "page"]
    where = ["--dir", str(tmp_path / "build")]
    poet(*plan, "--deadline", "0", "--time-limit", "2", *where)
    poet("build", *where)
    assert "timing table of cortex-m0" in poet("profile", "--runs", "1", "--modes", "used", *where)
    assert {entry.source for entry in read_costs(tmp_path / "build" / "costs.json").kernels} == {"modelled"}
    poet("measure", "--steps", "1", *where)
    record = EnergyRecord.model_validate_json((tmp_path / "build" / "run" / "energy.json").read_bytes())
    # A multiplication and an addition in software take some hundred cycles; an FPU's take 2.
    cycles = record.by_kind_s["compute"].mean * load_build(tmp_path / "build").manifest.board.clock_hz
    assert 5e6 < cycles < 1e8


def _off(folder: Path) -> tuple[float, float]:
    """How far the planned time and energy of a step are off what the profiler gives for other samples: relative."""
    build = load_build(folder)
    manifest = build.manifest
    with profiled(build) as (clock, device):
        device.write_sample(*random_batches(manifest, 1, seed=7)[0])
        device.train(1e-3)
        cycles = clock.cycles(device, manifest.steps)
    busy_s = cycles.sum() / manifest.board.clock_hz
    time_s = busy_s + sum(step.transfer_s for step in manifest.steps)
    energy_j = busy_s * manifest.board.run_w + sum(step.transfer_j for step in manifest.steps)
    planned_s, planned_j = (sum(getattr(step, name) for step in manifest.steps) for name in ("time_s", "energy_j"))
    return abs(planned_s / time_s - 1.0), abs(planned_j / energy_j - 1.0)
