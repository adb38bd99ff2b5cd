"""`make bench-solver`: schedules and bounds on nine instances, against the best known, baselines and POET's program.

Groups of rows, in this order; name one, or words of a row, to run only those (`solver.py main`, `solver.py bert 0.5`):

main        the solver on every row of the instances with a best known schedule, 120 s each
baselines   paging only, recomputation only, DTR, Capuchin (by seconds as published, and by joules) on the same rows
poet        POET's published program, on CP-SAT and HiGHS side by side, a thread each, until the first proof or 600 s
a72         ResNet-18 on POET's Raspberry Pi 4B constants: the solver (20 s) and Capuchin
scale       a 24-layer BERT training graph of more than 2,000 ops
order       the rows of main that gained from another order of first computations, again in the given order

Every row runs in a process of its own, with the threads of --threads; paging counts towards the deadline of 2.0 x the
compute time. benchmarks/solver.json is written after every row; rows that are there already are skipped, so that a run
can be cut short and taken up again (--again forgets the chosen rows). docs/solver-bench.md is written from it at the
end, or with --report alone.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import queue
import re
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from poet_solver.baselines.poet_milp import poet_milp, poet_milp_on_highs
from poet_solver.budget_spec import with_budgets
from poet_solver.errors import InfeasibleError
from poet_solver.incumbent import Progress, Search
from poet_solver.instances import read_any
from poet_solver.interrupt import Interrupt
from poet_solver.net import build_net
from poet_solver.problem import Mode, PageCost, Problem
from poet_solver.schedule import Schedule
from poet_solver.schedule_io import step_counts
from poet_solver.synthetic import bert_training
from poet_solver.techniques import Method, schedule_with
from rich.console import Console
from solver_report import ASKED, IN_ORDER, Results, summary, write_report

HERE = Path(__file__).parent
RESULTS = HERE / "solver.json"
DEADLINE = "2.0"
PROVEN_GAP = 1e-4

BASELINES = (Method.PAGE, Method.REMAT, Method.DTR, Method.CAPUCHIN, Method.CAPUCHIN_ENERGY)
BASELINE_S = 20.0
POET_ROWS = (
    ("linear", "0.5"),
    ("linear", "0.45"),
    ("transformer", "0.85"),
    ("vgg16_cifar", "0.7"),
    ("vgg16_cifar", "0.5"),
    ("resnet18_cifar", "0.7"),
    ("resnet18_cifar", "0.5"),
    ("resnet18", "0.5"),
)
POET_S = 600.0
POET_GRACE_S = 120.0
"""To build the program, and to end after the limit."""
FLOP_PER_S_M4F, FLOP_PER_J_M4F = 6.37e6, 5.80e8
"""POET's constants for the nRF52840, with which its instances were made."""


@dataclass(frozen=True)
class Device:
    """POET's cost model of a device: energy of a page = memory power x (latency + bytes / rate)."""

    flop_per_s: float
    flop_per_j: float
    in_latency_s: float
    in_rate: float
    out_latency_s: float
    out_rate: float
    memory_w: float


A72 = {
    "a72": Device(2.0e9, 4.01e7, 5.09561e-6, 45.5e6, 1.85314e-5, 24.5e6, 0.15),
    "a72slow": Device(1.2e8, 4.01e7, 5.09561e-6, 45.5e6, 1.85314e-5, 24.5e6, 0.15),
    "a72nocache": Device(1.203e8, 4.01e7, 5.09561e-6, 45.5e6, 4.23532e-3, 17.1e6, 0.15),
}
"""The release's FLOP/s, the other figure in its comment, and its row without cache."""
A72_SHARES = {
    "resnet18": ("0.7", "0.5", "0.37"),
    "resnet18_cifar": ("0.5", "0.3", "0.25", "0.2", "0.17", "0.15"),
}
A72_S = 20.0


@dataclass(frozen=True)
class Row:
    """One run. `what` is a Method's name, IN_ORDER, or "poet" for the side-by-side run of POET's program."""

    group: str
    instance: str
    share: str
    what: str
    time_limit_s: float

    @property
    def key(self) -> str:
        return f"{self.instance} {self.share} {self.what}"

    @property
    def words(self) -> tuple[str, ...]:
        """What it can be chosen by."""
        return (self.group, *self.key.split())

    def problem(self) -> Problem:
        return with_budgets(_graph(self.instance), self.share, DEADLINE)


def rows(time_limit_s: float, results: Results) -> list[Row]:
    """Everything there is to run; `results` of main tell which rows there are of order."""
    out = [Row("main", name, share, "both", time_limit_s) for name, share in ASKED]
    for name, share in ASKED:
        out += [Row("baselines", name, share, method.value, min(BASELINE_S, time_limit_s)) for method in BASELINES]
    for name, share in POET_ROWS:
        if (name, share) not in ASKED:
            out.append(Row("poet", name, share, "both", time_limit_s))
        out.append(Row("poet", name, share, "poet", POET_S))
    for device in A72:
        for name, shares in A72_SHARES.items():
            for share in shares:
                out.append(Row("a72", f"{name}@{device}", share, "both", min(A72_S, time_limit_s)))
                for method in (Method.CAPUCHIN, Method.CAPUCHIN_ENERGY):
                    out.append(Row("a72", f"{name}@{device}", share, method.value, A72_S))
    out.append(Row("scale", "bert24", "0.3", "both", time_limit_s))
    for name, share in ASKED:
        if results.get(f"{name} {share} both", {}).get("order_gain_percent"):
            out.append(Row("order", name, share, IN_ORDER, time_limit_s))
    return out


def _graph(instance: str) -> Problem:
    if instance == "bert24":
        return bert_training(layers=24)
    name, _, device = instance.partition("@")
    problem = read_any(HERE / "instances" / f"{name}.json")
    return on_device(problem, A72[device]) if device else problem


def on_device(problem: Problem, device: Device) -> Problem:
    """An instance made with POET's M4F constants, with those of another device."""

    def mode(m: Mode) -> Mode:
        return replace(
            m,
            time_s=m.time_s * FLOP_PER_S_M4F / device.flop_per_s,
            energy_j=m.energy_j * FLOP_PER_J_M4F / device.flop_per_j,
        )

    def page(latency_s: float, rate: float, size: int) -> PageCost:
        seconds = latency_s + size / rate
        return PageCost(seconds, device.memory_w * seconds)

    tensors = tuple(
        replace(
            t,
            page_in=page(device.in_latency_s, device.in_rate, t.size_bytes),
            page_out=page(device.out_latency_s, device.out_rate, t.size_bytes),
        )
        for t in problem.tensors
    )
    return replace(
        problem,
        name=f"{problem.name} on another device",
        tensors=tensors,
        ops=tuple(replace(op, modes=tuple(mode(m) for m in op.modes)) for op in problem.ops),
    )


def base_energy_j(problem: Problem) -> float:
    """Energy of every op once."""
    return sum(op.modes[0].energy_j for op in problem.ops)


def run_solver(row: Row, threads: int) -> dict[str, Any]:
    """One solve in this process; figures in percent of the energy of every op once."""
    problem = row.problem()
    base = base_energy_j(problem)
    found: list[tuple[float, float]] = []
    proven: dict[str, float] = {}

    def watch(news: Progress) -> None:
        if not math.isfinite(news.energy_j):
            return
        if not found or news.energy_j < found[-1][1]:
            found.append((round(news.elapsed_s, 4), news.energy_j))
            proven.clear()
        for family, bound in (("all", news.bound_j), *news.other_bounds.items()):
            if news.energy_j - bound <= PROVEN_GAP * news.energy_j:
                proven.setdefault(family, round(news.elapsed_s, 4))

    started = time.monotonic()
    try:
        schedule = schedule_with(
            problem,
            Method.BOTH if row.what == IN_ORDER else Method(row.what),
            time_limit_s=row.time_limit_s,
            threads=threads,
            progress=watch,
            free_order=row.what != IN_ORDER,
        )
    except InfeasibleError as error:
        return {"found": False, "why": str(error), "seconds": round(time.monotonic() - started, 2)}
    return {
        "found": True,
        "seconds": round(time.monotonic() - started, 2),
        "ops": len(problem.ops),
        **figures(problem, schedule, base),
        "first_schedule_s": found[0][0],
        "found_s": [[seconds, energy] for seconds, energy in found],
        "proven_s": proven,
    }


def figures(problem: Problem, schedule: Schedule, base: float) -> dict[str, Any]:
    """What the tables show of a schedule."""
    gains = [float(m[1]) for note in schedule.notes if (m := re.search(r"another order .* saves ([\d.]+)%", note))]
    return {
        "status": schedule.status.value,
        "overhead_percent": 100 * (schedule.energy_j / base - 1),
        "energy_j": schedule.energy_j,
        "base_energy_j": base,
        "bound_percent": 100 * (schedule.lower_bound_j / base - 1),
        "bound_family": schedule.bound_family,
        "gap_percent": 100 * schedule.gap,
        "overhead_gap_percent": 100 * (schedule.energy_j - schedule.lower_bound_j) / base,
        "other_bounds": [
            {
                "family": bound.family,
                "bound_percent": 100 * (bound.energy_j / base - 1),
                "gap_percent": 100 * max(0.0, 1 - bound.energy_j / schedule.energy_j),
            }
            for bound in schedule.other_bounds
        ],
        "order_gain_percent": gains[0] if gains else 0.0,
        "share_of_deadline": schedule.time_s / problem.deadline_s if problem.deadline_s else None,
        "peak_bytes": schedule.peak_bytes,
        "arena_bytes": schedule.arena_bytes,
        "counts": step_counts(schedule.steps),
        "notes": list(schedule.notes),
    }


def run_alone(row: Row, threads: int) -> dict[str, Any]:
    """`run_solver`, with the peak of this process's memory."""
    figures_of_row = run_solver(row, threads)
    return {**figures_of_row, "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def run_poet(row: Row) -> dict[str, Any]:
    """POET's program on two solvers at once; the one that proves its optimum first ends the other."""
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[dict[str, Any]] = context.Queue()
    runs = [context.Process(target=_poet_on, args=(row, solver, answers)) for solver in ("CP-SAT", "HiGHS")]
    for process in runs:
        process.start()
    found: list[dict[str, Any]] = []
    with suppress(queue.Empty):
        while len(found) < len(runs) and not any(answer["proven"] for answer in found):
            found.append(answers.get(timeout=row.time_limit_s + POET_GRACE_S))
    for process in runs:
        process.terminate()
        process.join()
    if not found:
        return {
            "found": False,
            "proven": False,
            "seconds": row.time_limit_s,
            "why": "both solvers ended without an answer",
        }
    best = min(found, key=lambda answer: (not answer["proven"], answer.get("energy_j", math.inf)))
    return {**best, "tried": sorted(answer["solver"] for answer in found)}


def _poet_on(row: Row, solver: str, answers: multiprocessing.Queue[dict[str, Any]]) -> None:
    problem = row.problem()
    net, base = build_net(problem), base_energy_j(problem)
    started = time.monotonic()
    search = Search(net, started + row.time_limit_s, Interrupt())
    bounds = [0.0]

    def on_bound(bound_j: float) -> None:
        bounds[0] = max(bounds[0], bound_j)

    if solver == "HiGHS":
        poet_milp_on_highs(net, row.time_limit_s, search.offer_actions, on_bound)
    else:
        poet_milp(net, row.time_limit_s, 1, 0, search.interrupt, search.offer_actions, on_bound)
    answer = {"solver": solver, "seconds": round(time.monotonic() - started, 3), "found": bool(search.actions)}
    answer["bound_percent"] = 100 * (bounds[0] / base - 1)
    answer["proven"] = search.energy_j - bounds[0] <= PROVEN_GAP * search.energy_j if search.actions else False
    if search.actions:
        answer |= {"energy_j": search.energy_j, "overhead_percent": 100 * (search.energy_j / base - 1)}
    answers.put(answer)


def in_new_process(work: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Run where nothing before it has taken memory or threads."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="words a row must have: main, poet, linear, 0.5, capuchin, ...")
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds a row of the solver (default 120)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the solver (default 2)")
    parser.add_argument("--again", action="store_true", help="forget the chosen rows that are there already")
    parser.add_argument("--report", action="store_true", help="run nothing, only write the report from the JSON file")
    arguments = parser.parse_args()
    console = Console()
    stored: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    results: Results = stored["rows"]
    done: set[str] = set()
    while not arguments.report:
        # The rows of order are known when main is done, so that what there is to do is asked again.
        chosen = [r for r in rows(arguments.time_limit, results) if all(w in r.words for w in arguments.only)]
        todo = [r for r in chosen if r.key not in done and (arguments.again or r.key not in results)]
        if not todo:
            break
        row = todo[0]
        done.add(row.key)
        console.print(f"{row.group}: {row.key} ({len(todo)} to do) ...", end=" ")
        found = run_poet(row) if row.what == "poet" else in_new_process(run_alone, row, arguments.threads)
        results[row.key] = {
            "group": row.group,
            "what": row.what,
            "time_limit_s": row.time_limit_s,
            "threads": arguments.threads,
            **found,
        }
        overhead = f"{found['overhead_percent']:.4f} %" if found["found"] else "no schedule"
        console.print(f"{overhead} in {found['seconds']:.1f} s")
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        RESULTS.write_text(json.dumps({**machine, "rows": results}, indent=1) + "\n")
    write_report(results)
    for line in summary(results):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
