"""Optimum of the model against the exact search, on many small random graphs; writes benchmarks/solver_exactness.json.

python benchmarks/solver_exactness.py [--plain 1000] [--features 300] [--first 0]: graphs of 6 to 8 ops. Every graph
where the two differ is listed with its seed. The exact search knows no slots or families; it keeps the order of first
computations and looks at live bytes, not at addresses, and so does the search it is compared with.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

from poet_solver.errors import InfeasibleError
from poet_solver.exact import exact_optimum
from poet_solver.interrupt import Interrupt
from poet_solver.pipeline import search_plan
from poet_solver.synthetic import random_problem

RESULTS = Path(__file__).parent / "solver_exactness.json"


def compare(seed: int, features: bool) -> tuple[str, float | None, float | None]:
    """("equal", "differs" or "too large", exact optimum, optimum found)."""
    rng = random.Random(seed)
    problem = random_problem(rng, rng.randint(5, 6) if features else rng.randint(6, 8), features=features)
    try:
        exact = exact_optimum(problem, max_states=60_000)
    except OverflowError:
        return "too large", None, None
    try:
        deadline = time.monotonic() + 30
        found: float | None = search_plan(problem, deadline=deadline, interrupt=Interrupt(), free_order=False).energy_j
    except InfeasibleError:
        found = None
    if exact is None or found is None:
        return ("equal" if exact is found else "differs"), exact, found
    return ("equal" if math.isclose(exact, found, rel_tol=1e-5) else "differs"), exact, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", type=int, default=1000)
    parser.add_argument("--features", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    arguments = parser.parse_args()
    report: dict[str, object] = {}
    for kind, wanted in (("plain", arguments.plain), ("features", arguments.features)):
        counts = {"equal": 0, "differs": 0, "too large": 0}
        infeasible = 0
        listed: list[dict[str, object]] = []
        seed = arguments.first
        started = time.monotonic()
        while counts["equal"] + counts["differs"] < wanted:
            verdict, exact, found = compare(seed, kind == "features")
            counts[verdict] += 1
            infeasible += verdict == "equal" and exact is None
            if verdict == "differs":
                listed.append({"seed": seed, "exact": exact, "found": found})
            seed += 1
        seconds = round(time.monotonic() - started, 1)
        report[kind] = {**counts, "of which infeasible": infeasible, "listed": listed, "seconds": seconds}
        print(kind, report[kind], flush=True)
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
