"""A run whose board loses power goes on where its last checkpoint was, as a user types it, on NOR flash in QEMU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .test_whole_path import MODEL, data, need_tools, poet

__all__ = ["data"]


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
    command = [str(Path(sys.executable).parent / "poet"), *train]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    losses = run / "losses.partial.csv"
    deadline = time.monotonic() + 200
    while not losses.exists() or losses.read_text().count("\n") < 1 + 7:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(json.loads((run / "target.json").read_text())["pid"], signal.SIGKILL)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 1 and b"Training stopped at step" in output

    try:
        kept = len(losses.read_text().splitlines()) - 1
        assert f"{kept // 5 * 5} steps trained, from checkpoint {kept // 5}" in words(tmp_path, "flash", "--resume")
        assert "units erased" in words(tmp_path, *train, "--resume")
        assert json.loads((run / "run.json").read_text())["erases"] > 0
        assert "Checkpoint 4: 16 steps trained" in words(tmp_path, "checkpoint")
        assert "Checkpoint 4 is back: 16 steps trained" in words(tmp_path, "restore")
        assert "0 steps trained." in words(tmp_path, "flash")
        assert "there is no checkpoint" in words(tmp_path, "restore", code=1)
    finally:
        words(tmp_path, "stop")
    assert words(tmp_path, "verify").count("equal") == 2
