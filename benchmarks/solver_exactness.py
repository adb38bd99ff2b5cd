"""`make bench-solver-exactness`: the solver's optimum against the exact search, on random graphs of 6 to 8 ops.

The exact search (poet_solver.exact) knows no slots or families; like the search it is compared with, it keeps the order
of first computations and looks at live bytes, not at addresses. "plain" graphs have compute and page costs and
workspace; "features" adds homes, updates, op modes, deadlines, idle power and wear. Two results are equal when both
are infeasible or when the energies agree to 1e-5.

Writes benchmarks/solver_exactness.json after every graph and goes on from there, so that a run can be cut short;
--again forgets what is there (do that after a change of the solver). Every graph that differs is listed with its seed.
Exits with 1 when fewer than 99.9 % are equal. --short is for continuous integration: 60 and 20 graphs, no file.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

from poet_solver.errors import InfeasibleError
from poet_solver.exact import exact_optimum
from poet_solver.interrupt import Interrupt
from poet_solver.pipeline import search_plan
from poet_solver.synthetic import random_problem

RESULTS = Path(__file__).parent / "solver_exactness.json"
ASKED_SHARE = 0.999
_MOST_STATES = 400_000
_SOLVE_S = 30.0


def compare(seed: int, features: bool) -> tuple[str, float | None, float | None]:
    """("equal", "differs" or "too large", exact optimum, optimum found) in joules; None where nothing is feasible."""
    rng = random.Random(seed)
    problem = random_problem(rng, rng.randint(6, 8), features=features)
    try:
        exact = exact_optimum(problem, max_states=_MOST_STATES)
    except OverflowError:
        return "too large", None, None
    try:
        deadline = time.monotonic() + _SOLVE_S
        found: float | None = search_plan(problem, deadline=deadline, interrupt=Interrupt(), free_order=False).energy_j
    except InfeasibleError:
        found = None
    if exact is None or found is None:
        return ("equal" if exact is found else "differs"), exact, found
    return ("equal" if math.isclose(exact, found, rel_tol=1e-5) else "differs"), exact, found


def run(kind: str, wanted: int, so_far: dict[str, Any], report: dict[str, Any], path: Path | None) -> None:
    """Compare graph after graph until `wanted` are counted; `so_far` is this kind's part of the report."""
    for key in ("equal", "differs", "of which infeasible", "too large", "next seed"):
        so_far.setdefault(key, 0)
    so_far.setdefault("listed", [])
    so_far.setdefault("seconds", 0.0)
    while (counted := so_far["equal"] + so_far["differs"]) < wanted:
        seed = so_far["next seed"]
        started = time.monotonic()
        verdict, exact, found = compare(seed, kind == "features")
        so_far["next seed"] = seed + 1
        so_far[verdict] += 1
        so_far["of which infeasible"] += verdict == "equal" and exact is None
        so_far["seconds"] = round(so_far["seconds"] + time.monotonic() - started, 2)
        if verdict == "differs":
            so_far["listed"].append({"seed": seed, "exact_j": exact, "found_j": found})
            print(f"{kind} seed {seed}: exact {exact}, found {found}", flush=True)
        if (counted + 1) % 20 == 0:
            print(f"{kind}: {so_far['equal']} equal, {so_far['differs']} differ, of {wanted}", flush=True)
        if path is not None:
            path.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", type=int, default=1000, help="plain graphs to compare (default 1000)")
    parser.add_argument("--features", type=int, default=300, help="graphs with features to compare (default 300)")
    parser.add_argument("--again", action="store_true", help="forget the graphs that are there already")
    parser.add_argument("--short", action="store_true", help="60 plain graphs and 20 with features, no file")
    arguments = parser.parse_args()
    wanted = {"plain": arguments.plain, "features": arguments.features}
    path: Path | None = RESULTS
    if arguments.short:
        wanted, path = {"plain": 60, "features": 20}, None
    keep = path is not None and path.exists() and not arguments.again
    report: dict[str, Any] = json.loads(RESULTS.read_text()) if keep else {}
    is_good = True
    for kind, count in wanted.items():
        so_far = report.setdefault(kind, {})
        run(kind, count, so_far, report, path)
        counted = so_far["equal"] + so_far["differs"]
        is_good &= so_far["equal"] >= ASKED_SHARE * counted
        print(
            f"{kind}: {so_far['equal']} of {counted} equal ({so_far['of which infeasible']} of them infeasible), "
            f"{so_far['too large']} too large for the exact search, {so_far['seconds']:.0f} s"
        )
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
