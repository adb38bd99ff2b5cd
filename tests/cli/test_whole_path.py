"""plan, build, flash, train, eval, verify, stop: as a user types them, on the emulated board, at three budgets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "examples" / "digits" / "digits.onnx"
STEPS = 60
ON_STORAGE = ["--ram", "28K", "--params", "storage"]


def poet(folder: Path, *arguments: str, code: int = 0) -> str:
    command = [str(Path(sys.executable).parent / "poet"), *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + (result.stderr if code else "")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    script = REPOSITORY / "examples" / "digits" / "make_data.py"
    subprocess.run([sys.executable, str(script), str(path)], check=True)
    return path


def need_tools() -> None:
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm"):
        if shutil.which(tool) is None:
            assert "CI" not in os.environ, f"{tool} must be there in CI"
            pytest.skip(f"{tool} is not installed")


@pytest.mark.emulated
@pytest.mark.parametrize(
    ("board", "budget", "pages", "recomputes"),
    [
        ("qemu_netduinoplus2", ["--ram", "24K"], True, True),
        ("qemu_netduinoplus2", ["--ram", "20K"], True, True),
        ("qemu_netduinoplus2", ["--ram", "28K"], False, True),
        ("qemu_netduinoplus2", ON_STORAGE, True, False),
        ("qemu_netduinoplus2", ["--ram", "28K", "--train", "last:1"], False, False),
        ("qemu_mps2_an386", ["--board-ram", "128K"], False, False),
        ("qemu_mps2_an386", ["--board-ram", "28K", "--ram", "20K"], True, True),
        ("qemu_mps2_an500", ["--ram", "20K", "--deadline", "10"], True, True),
        ("qemu_netduinoplus2", ["--ram", "79K", "--optimizer", "adamw", "--accumulate", "3"], True, False),
        ("qemu_netduinoplus2", [*ON_STORAGE, "--momentum", "0.9", "--nesterov", "--deadline", "10"], True, False),
    ],
    ids=[
        "24K",
        "20K",
        "28K",
        "params on storage",
        "last layer",
        "M4 of 128K",
        "M4 of 28K, 20K",
        "M7, 20K",
        "adamw",
        "nesterov on storage",
    ],
)
def test_train_eval_verify(
    tmp_path: Path, data: Path, board: str, budget: list[str], pages: bool, recomputes: bool
) -> None:
    need_tools()
    out = poet(tmp_path, "plan", str(MODEL), "--board", board, "--deadline", "3", *budget)
    assert "Next: poet build" in out
    assert "Next: poet flash" in poet(tmp_path, "build")
    assert "Next: poet train" in poet(tmp_path, "flash")
    try:
        poet(tmp_path, "train", "--data", str(data), "--steps", str(STEPS), "--lr", "0.02")
        assert "Accuracy" in poet(tmp_path, "eval", "--data", str(data))
    finally:
        poet(tmp_path, "stop")
    assert poet(tmp_path, "verify").count("equal") == 2
    run = tmp_path / "build" / "run"
    record = json.loads((run / "run.json").read_text())
    assert record["steps"] == STEPS and record["bit_identical"] is True
    assert record["arena_high_water_bytes"] == record["arena_bytes"] == record["peak_bytes"] <= record["budget_bytes"]
    assert 0 < record["stack_high_water_bytes"] < record["stack_bytes"]
    assert (record["page_outs"] > 0) == pages and (record["page_ins"] > 0) == pages
    assert recomputes is False or record["recompute_calls"] > 0
    predictions = np.load(run / "predictions.npy")
    session = onnxruntime.InferenceSession(run / "trained.onnx", providers=["CPUExecutionProvider"])
    with np.load(data) as arrays:
        there = [int(session.run(None, {"image": image[None]})[0].argmax()) for image in arrays["x_test"]]
    assert predictions.tolist() == there
    assert "<html" in (tmp_path / "build" / "report.html").read_text()[:200].lower()


@pytest.mark.emulated
def test_a_run_that_diverges_stops_with_the_weights_of_the_last_good_step(tmp_path: Path, data: Path) -> None:
    need_tools()
    poet(tmp_path, "plan", str(MODEL), "--board", "qemu_netduinoplus2", "--ram", "24K")
    poet(tmp_path, "build")
    poet(tmp_path, "flash")
    run = tmp_path / "build" / "run"
    train = ["train", "--data", str(data), "--lr", "1e12"]
    try:
        text = " ".join(poet(tmp_path, *train, "--steps", "20", code=1).split())
        record = json.loads((run / "run.json").read_text())
        stopped = record["not_finite_at_step"]
        assert 0 < stopped < 5 and record["steps"] == stopped
        assert f"stopped at step {stopped} of 20" in text and "lower learning rate" in text and "saved" in text
        assert len((run / "losses.csv").read_text().splitlines()) == 1 + stopped
        kept = (run / "weights.npz").read_bytes()
        assert (run / "trained.onnx").exists() and record["page_outs"] > 0
        poet(tmp_path, "eval", "--data", str(data))
        assert "Loss not finite" in (tmp_path / "build" / "report.html").read_text()
        poet(tmp_path, "flash")
        poet(tmp_path, *train, "--steps", str(stopped))
        assert (run / "weights.npz").read_bytes() == kept
        poet(tmp_path, "flash")
        poet(tmp_path, *train, "--steps", "20", code=1)
    finally:
        poet(tmp_path, "stop")
    assert poet(tmp_path, "verify").count("equal") == 2


@pytest.mark.emulated
@pytest.mark.parametrize(
    ("limit", "ram_bytes"), [([], 131072), (["--board-ram", "64K"], 65536)], ids=["all of it", "limited"]
)
def test_without_a_budget_the_arena_gets_what_the_firmware_leaves(
    tmp_path: Path, limit: list[str], ram_bytes: int
) -> None:
    need_tools()
    poet(tmp_path, "plan", str(MODEL), "--board", "qemu_netduinoplus2", *limit)
    budget = json.loads((tmp_path / "build" / "plan.json").read_text())["ram_bytes"]
    poet(tmp_path, "build")
    sizes = json.loads((tmp_path / "build" / "project" / "sizes.json").read_text())
    other = sizes["ram_static_bytes"] - sizes["arena_bytes"]
    assert budget == ram_bytes - sizes["stack_bytes"] - other
    assert sizes["ram_total_bytes"] == ram_bytes
    manifest = json.loads((tmp_path / "build" / "project" / "manifest.json").read_text())
    assert manifest["board"]["ram_bytes"] == ram_bytes
