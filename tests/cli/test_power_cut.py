"""A run whose board loses power goes on where its last checkpoint was, as a user types it, on NOR flash in QEMU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .test_whole_path import MODEL, data, need_tools, poet

__all__ = ["data"]
STEPS_BEFORE = 7
TRAIN_AND_CUT = f"""
import json, os, signal
from pathlib import Path
from poet_codegen.cli.app import app
from poet_hil.device import DeviceClient
from poet_hil.protocol import Command, Frame, encode, request_train

train, steps = DeviceClient.train, []

def train_and_cut(device, rate):
    if len(steps) == {STEPS_BEFORE}:
        # In the middle of a step: it is asked for, and its answer never heard.
        device.link.target.send(encode(Frame(Command.TRAIN, 0, payload=request_train(rate))))
        os.kill(json.loads(Path("build/run/target.json").read_text())["pid"], signal.SIGKILL)
    steps.append(rate)
    return train(device, rate)

DeviceClient.train = train_and_cut
app()
"""
"""`poet train`, and a power cut at a known step, however quick the board and busy the machine."""


def words(folder: Path, *arguments: str, code: int = 0) -> str:
    return " ".join(poet(folder, *arguments, code=code).split())


@pytest.mark.emulated
def test_a_run_goes_on_after_a_power_cut(tmp_path: Path, data: Path) -> None:
    need_tools()
    plan = words(tmp_path, "plan", str(MODEL), "--board", "qemu_emcraft_sf2", "--ram", "24K", "--params", "storage",
                "--technique", "page", "--deadline", "0", "--lifetime", "2y", "--steps-per-day", "500")  # fmt: skip
    assert "Storage wear" in plan and "steps until" in plan
    words(tmp_path, "build")
    words(tmp_path, "flash")
    run = tmp_path / "build" / "run"
    train = ["train", "--data", str(data), "--steps", "16", "--checkpoint-every", "5"]
    command = [sys.executable, "-c", TRAIN_AND_CUT, *train]
    cut = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert cut.returncode == 1 and f"Training stopped at step {STEPS_BEFORE}" in cut.stdout + cut.stderr, cut
    assert len((run / "losses.partial.csv").read_text().splitlines()) == 1 + STEPS_BEFORE

    try:
        assert "5 steps trained, from checkpoint 1" in words(tmp_path, "flash", "--resume")
        assert "units erased" in words(tmp_path, *train, "--resume")
        assert json.loads((run / "run.json").read_text())["erases"] > 0
        assert "Checkpoint 4: 16 steps trained" in words(tmp_path, "checkpoint")
        assert "Checkpoint 4 is back: 16 steps trained" in words(tmp_path, "restore")
        assert "0 steps trained." in words(tmp_path, "flash")
        assert "there is no checkpoint" in words(tmp_path, "restore", code=1)
    finally:
        words(tmp_path, "stop")
    assert words(tmp_path, "verify").count("equal") == 2
