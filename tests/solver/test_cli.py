"""The command line: budgets in words, techniques, errors in one paragraph, interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from poet_solver.baselines.keep import keep_everything_peak
from poet_solver.budget_spec import deadline_s_of, ram_bytes_of
from poet_solver.cli import app
from poet_solver.errors import PoetError, ProblemError
from poet_solver.instances import instance_problem, read_any
from typer.testing import CliRunner

INSTANCES = Path(__file__).parents[2] / "benchmarks" / "instances"
LINEAR = INSTANCES / "linear.json"


def run(*arguments: str) -> str:
    """Standard output of a successful call; errors are raised."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_solve_writes_a_schedule_that_replays(tmp_path: Path) -> None:
    out = tmp_path / "schedule.json"
    run("solve", str(LINEAR), "--ram", "0.5", "--deadline", "2.0", "--time-limit", "20", "--out", str(out))
    data = json.loads(out.read_text())
    assert data["status"] == "optimal" and data["arena_bytes"] == data["peak_bytes"] <= 3708
    assert data["energy_j"] / 0.00045575 - 1 == pytest.approx(0.010895, abs=2e-6)
    assert "legal" in run("replay", str(LINEAR), str(out), "--ram", "0.5", "--deadline", "2.0")
    with pytest.raises(PoetError, match="another problem"):
        run("replay", str(LINEAR), str(out), "--ram", "0.6", "--deadline", "2.0")


@pytest.mark.parametrize("technique", ["both", "page", "remat", "poet-milp", "dtr", "capuchin", "capuchin-energy"])
def test_every_technique(technique: str, tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    run("solve", str(LINEAR), "--ram", "3708", "--technique", technique, "--time-limit", "5", "--out", str(out))
    assert json.loads(out.read_text())["arena_bytes"] <= 3708


def test_min_ram() -> None:
    text = run("min-ram", str(LINEAR), "--technique", "both", "--technique", "keep", "--time-limit", "10")
    assert "3,256" in text and "7,416" in text


def test_a_wear_budget_keeps_pages_on_storage_few(tmp_path: Path) -> None:
    """The first value is read again after two that leave it no room: it is paged out, or computed again."""
    page = {"time_s": 1e-3, "energy_j": 1e-3}
    tensors = [
        {"name": name, "size_bytes": size, "page_in": page, "page_out": {**page, "wear_bytes": 4096}}
        for name, size in zip("abcd", (100, 100, 100, 0), strict=True)
    ]
    reads: list[list[int]] = [[], [0], [1], [0, 2]]
    modes = [{"time_s": 1.0, "energy_j": 1.0, "resident": read} for read in reads]
    ops = [{"name": f"op {k}", "outputs": [k], "modes": [mode]} for k, mode in enumerate(modes)]
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"name": "p", "tensors": tensors, "ops": ops, "ram_bytes": 200}))
    with pytest.raises(PoetError, match="wear"):
        run("solve", str(file), "--ram", "200", "--wear", "1", "--technique", "page", "--time-limit", "5")
    assert "4096 bytes erased" in run("solve", str(file), "--ram", "200", "--wear", "4K", "--time-limit", "5")
    out = run("solve", str(file), "--ram", "200", "--wear", "1", "--time-limit", "5")
    assert "bytes erased" not in out and "recompute" in out


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.5", 3708), ("50%", 3708), ("1.0", 7416), ("4096", 4096), ("4K", 4096), ("1M", 1 << 20), ("2KiB", 2048)],
)
def test_ram_in_words(text: str, expected: int) -> None:
    problem = read_any(LINEAR)
    assert keep_everything_peak(problem) == 7416
    assert ram_bytes_of(text, problem) == expected


def test_deadline_in_words() -> None:
    problem = read_any(LINEAR)
    assert deadline_s_of("30s", problem) == 30 and deadline_s_of("500ms", problem) == 0.5
    assert deadline_s_of("2.0", problem) == 2 * deadline_s_of("1", problem)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ram", "much"), "--ram much"),
        (("--ram", "0"), "--ram 0"),
        (("--ram", "-5K"), "--ram -5K"),
        (("--wear", "much"), "--wear much"),
        (("--deadline", "soon"), "--deadline soon"),
        (("--deadline", "0.5"), "below the compute time"),
        (("--deadline", "0s"), "below the compute time itself, 0.041"),
        (("--deadline", "9" * 400), "is inf s"),
        (("--threads", "0"), "threads"),
        (("--time-limit", "0"), "time limit"),
        (("--time-limit", "nan"), "time limit"),
        (("--ram", "100"), r"needs 3256 bytes, the RAM budget is 100 bytes"),
        (("--out", "/nonexistent/x.json", "--technique", "dtr"), "cannot be written"),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(PoetError, match=message):
        run("solve", str(LINEAR), *arguments)


OP = {"inputs": [], "bytes": 1, "ws": 0, "time": 1, "energy": 1, "pin_t": 1, "pin_e": 1, "pout_t": 1, "pout_e": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": [0]}, r"ops\[0\].inputs: op 0 does not come before"),
        ({"inputs": [7]}, r"ops\[0\].inputs"),
        ({"inputs": "x"}, r"ops\[0\].inputs"),
        ({"energy": -1}, r"ops\[0\].energy"),
        ({"time": float("nan")}, r"ops\[0\].time"),
        ({"bytes": 1.5}, r"ops\[0\].bytes"),
        ({"ws": None}, r"ops\[0\].ws"),
        ({"pin_e": True}, r"ops\[0\].pin_e"),
    ],
)
def test_malformed_instances_name_the_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        instance_problem({"name": "x", "ops": [{**OP, **change}]})


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "none.json").write_text('{"ops": []}')
    for name, message in (("bad", "not JSON"), ("list", "list.json"), ("none", "at least one op"), ("gone", "read")):
        with pytest.raises(ProblemError, match=message):
            read_any(tmp_path / f"{name}.json")


def test_zero_byte_tensors_and_costs_are_fine() -> None:
    from poet_solver.pipeline import solve

    zero = {key: (0 if key != "inputs" else []) for key in OP}
    problem = instance_problem({"ops": [zero, {**zero, "inputs": [0]}]})
    seen: list[float] = []
    assert solve(problem, progress=lambda news: seen.append(news.gap)).energy_j == 0
    assert seen and set(seen) <= {0.0, 1.0}


def test_ctrl_c_returns_the_best_so_far(tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    file = INSTANCES / "resnet18_cifar.json"
    command = [sys.executable, "-m", "poet_solver.cli", "solve", str(file), "--ram", "0.3", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    assert "best" in first and "bound" in first and "gap" in first
    os.kill(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and "Interrupted" in text, text
    assert json.loads(out.read_text())["status"] in {"feasible", "optimal"}
