"""`make bench-solver`: schedules and bounds on the nine instances, against the best known and the baselines.

Writes benchmarks/solver.json after every row and skips rows that are there already, so that a run can be cut short and
taken up again (--again forgets them). 2 threads and 120 s a row unless told otherwise; paging counts towards the
deadline of 2.0 x the compute time.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from poet_solver.budget_spec import with_budgets
from poet_solver.errors import InfeasibleError
from poet_solver.incumbent import Progress
from poet_solver.instances import read_any
from poet_solver.problem import Mode, Op, PageCost, Problem
from poet_solver.schedule import Schedule
from poet_solver.schedule_io import step_counts
from poet_solver.synthetic import bert_training
from poet_solver.techniques import Method, schedule_with
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
RESULTS = HERE / "solver.json"

BEST_KNOWN = {
    ("linear", "0.5"): (1.0895, 1.0895),
    ("transformer", "0.85"): (4.335, 4.335),
    ("vgg16_cifar", "0.7"): (0.0091, None),
    ("vgg16_cifar", "0.5"): (0.203, None),
    ("resnet18_cifar", "0.7"): (0.058, 0.057),
    ("resnet18_cifar", "0.5"): (0.124, 0.122),
    ("resnet18_cifar", "0.3"): (1.3847, 1.3847),
    ("resnet18_cifar", "0.2"): (7.78, 5.89),
    ("resnet18_cifar", "0.128"): (24.9, 22.0),
    ("bert", "0.5"): (2.42, 1.76),
    ("bert", "0.3"): (6.50, 4.06),
    ("rn18dw_m7sd", "0.7"): (0.108, 0.020),
    ("rn18dw_m7sd", "0.5"): (0.9991, 0.9991),
    ("rn18dw_m7sd", "0.337"): (2.160, 1.37),
    ("mbv2_m7sd", "0.7"): (1.12, 0.23),
    ("mbv2_m7sd", "0.5"): (2.3087, 2.2828),
    ("mbv2_m7sd", "0.3"): (8.165, 4.80),
    ("bertdw_m7sd", "0.5"): (0.70, 0.14),
    ("bertdw_m7sd", "0.3"): (1.26, 0.41),
    ("bertdw_m7sd", "0.126"): (1.98, 1.41),
}
"""(instance, RAM share) -> overhead % of the best schedule known before, and of the bound over the listed family."""

BASELINES = (Method.PAGE, Method.REMAT, Method.DTR, Method.CAPUCHIN)
A72_SHARES = ("0.9", "0.7", "0.5", "0.4", "0.37")
FLOP_PER_S_M4F = 6.37e6


def a72(problem: Problem) -> Problem:
    """An instance made with POET's M4F constants, on its Raspberry Pi 4B (A72) constants."""

    def mode(m: Mode) -> Mode:
        flop = m.time_s * FLOP_PER_S_M4F
        return replace(m, time_s=flop / 2.0e9, energy_j=flop / 4.01e7)

    def page(latency_s: float, rate: float, size: int) -> PageCost:
        seconds = latency_s + size / rate
        return PageCost(seconds, 0.15 * seconds)

    tensors = tuple(
        replace(
            t,
            page_in=page(5.09561e-6, 45.5e6, t.size_bytes),
            page_out=page(1.85314e-5, 24.5e6, t.size_bytes),
        )
        for t in problem.tensors
    )
    ops: tuple[Op, ...] = tuple(replace(op, modes=tuple(mode(m) for m in op.modes)) for op in problem.ops)
    return replace(problem, name=f"{problem.name}_a72", tensors=tensors, ops=ops)


def base_energy_j(problem: Problem) -> float:
    """Energy of every op once."""
    return sum(op.modes[0].energy_j for op in problem.ops)


def attempt(problem: Problem, method: Method, time_limit_s: float, threads: int) -> dict[str, Any]:
    """One solve, as a row's part: figures in percent of the keep-everything energy."""
    base = base_energy_j(problem)
    first: list[float] = []

    def watch(progress: Progress) -> None:
        if not first and progress.energy_j < float("inf"):
            first.append(progress.elapsed_s)

    started = time.monotonic()
    try:
        schedule = schedule_with(problem, method, time_limit_s=time_limit_s, threads=threads, progress=watch)
    except InfeasibleError as error:
        return {"found": False, "why": str(error), "seconds": round(time.monotonic() - started, 2)}
    return {"found": True, "seconds": round(time.monotonic() - started, 2), **figures(schedule, base, first)}


def figures(schedule: Schedule, base: float, first: list[float]) -> dict[str, Any]:
    """What the table shows of a schedule."""
    return {
        "status": schedule.status.value,
        "overhead_percent": 100 * (schedule.energy_j / base - 1),
        "energy_j": schedule.energy_j,
        "bound_percent": 100 * (schedule.lower_bound_j / base - 1),
        "bound_family": schedule.bound_family,
        "gap_percent": 100 * schedule.gap,
        "other_bounds": [
            {
                "family": bound.family,
                "bound_percent": 100 * (bound.energy_j / base - 1),
                "gap_percent": 100 * max(0.0, 1 - bound.energy_j / schedule.energy_j),
            }
            for bound in schedule.other_bounds
        ],
        "first_schedule_s": round(first[0], 3) if first else None,
        "peak_bytes": schedule.peak_bytes,
        "arena_bytes": schedule.arena_bytes,
        "counts": step_counts(schedule.steps),
        "notes": list(schedule.notes),
    }


def rows(arguments: argparse.Namespace) -> list[tuple[str, Problem, Method, float]]:
    """(key, problem, method, seconds) of everything that was asked for."""
    out: list[tuple[str, Problem, Method, float]] = []
    for name, share in BEST_KNOWN:
        problem = with_budgets(read_any(HERE / "instances" / f"{name}.json"), share, "2.0")
        out.append((f"{name} {share} both", problem, Method.BOTH, arguments.time_limit))
        for method in BASELINES:
            out.append((f"{name} {share} {method}", problem, method, min(20.0, arguments.time_limit)))
        if len(problem.ops) <= 160:
            out.append((f"{name} {share} poet-milp", problem, Method.POET_MILP, arguments.time_limit))
    for share in A72_SHARES:
        problem = with_budgets(a72(read_any(HERE / "instances" / "resnet18.json")), share, "2.0")
        out.append((f"resnet18_a72 {share} both", problem, Method.BOTH, arguments.time_limit))
        out.append((f"resnet18_a72 {share} capuchin", problem, Method.CAPUCHIN, 10.0))
    scale = with_budgets(bert_training(layers=24), "0.3", "2.0")
    out.append(("bert24 0.3 both", scale, Method.BOTH, arguments.time_limit))
    return [row for row in out if all(word in row[0].split() for word in arguments.only)]


def table_of(results: dict[str, Any]) -> Table:
    """The results so far."""
    table = Table(title="Overhead % over every op once; gap % of total energy")
    for column in ("row", "before", "overhead", "bound, all", "gap", "bound, listed", "gap", "first s", "s", "arena"):
        table.add_column(column, justify="left" if column == "row" else "right")
    for key, row in results.items():
        name, share, _ = key.split()
        before = BEST_KNOWN.get((name, share), (None, None))[0] if key.endswith(" both") else None
        if not row["found"]:
            table.add_row(key, _text(before), "none", "", "", "", "", "", f"{row['seconds']:.1f}", "")
            continue
        other = row["other_bounds"][0] if row["other_bounds"] else {}
        table.add_row(
            key,
            _text(before),
            _text(row["overhead_percent"]),
            _text(row["bound_percent"]),
            _text(row["gap_percent"]),
            _text(other.get("bound_percent")),
            _text(other.get("gap_percent")),
            _text(row["first_schedule_s"]),
            f"{row['seconds']:.1f}",
            "= peak" if row["arena_bytes"] == row["peak_bytes"] else f"{row['arena_bytes'] / row['peak_bytes']:.3f}",
        )
    return table


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="words a row must have, such as: linear 0.5 both")
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds a row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="forget rows that are there already")
    arguments = parser.parse_args()
    console = Console(width=150)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    results: dict[str, Any] = stored["rows"]
    for key, problem, method, limit in rows(arguments):
        if key in results and not arguments.again:
            continue
        console.print(f"{key} ...")
        results[key] = {
            "time_limit_s": limit,
            "threads": arguments.threads,
            **attempt(problem, method, limit, arguments.threads),
            "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        machine = {"machine": platform.machine(), "python": platform.python_version()}
        RESULTS.write_text(json.dumps({**machine, "rows": results}, indent=1) + "\n")
    console.print(table_of(results))
    console.print("bound, all: every schedule in the given order; bound, listed: the family of the listed bounds.")


if __name__ == "__main__":
    main()
