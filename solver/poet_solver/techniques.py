"""Every way this package can schedule a problem, by the name it has on the command line."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum

from poet_solver.baselines.capuchin import capuchin_on_energy, capuchin_schedule
from poet_solver.baselines.dtr import dtr_schedule
from poet_solver.baselines.greedy import GiveUp
from poet_solver.baselines.poet_milp import FAMILY as POETS_FAMILY
from poet_solver.baselines.poet_milp import poet_milp
from poet_solver.errors import ProblemError
from poet_solver.incumbent import Progress, Search
from poet_solver.interrupt import Interrupt
from poet_solver.net import build_net
from poet_solver.phases import Technique
from poet_solver.pipeline import solve
from poet_solver.place import check_floor, infeasible, place
from poet_solver.problem import Problem
from poet_solver.schedule import Schedule


class Method(StrEnum):
    """Techniques of the solver, and baselines."""

    BOTH = "both"
    PAGE = "page"
    REMAT = "remat"
    KEEP = "keep"
    POET_MILP = "poet-milp"
    DTR = "dtr"
    CAPUCHIN = "capuchin"
    CAPUCHIN_ENERGY = "capuchin-energy"


def schedule_with(
    problem: Problem,
    method: Method,
    *,
    time_limit_s: float = 60.0,
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    interrupt: Interrupt | None = None,
    free_order: bool = True,
    starts: Sequence[Schedule] = (),
) -> Schedule:
    """Schedule `problem` with a technique or a baseline; replayed. Raises InfeasibleError or ProblemError.

    `starts`: schedules that a technique begins with, of its own family; baselines take none.
    """
    if threads < 1:
        raise ProblemError(f"threads: must be at least 1, is {threads}. Give the number of processor cores to use.")
    if not 0 < time_limit_s < math.inf:
        raise ProblemError(f"time limit: must be above 0 s, is {time_limit_s}. Give the seconds the search may take.")
    interrupt = interrupt or Interrupt()
    if method.value in set(Technique):
        return solve(
            problem,
            time_limit_s=time_limit_s,
            threads=threads,
            seed=seed,
            technique=Technique(method.value),
            progress=progress,
            interrupt=interrupt,
            free_order=free_order,
            starts=starts,
        )
    net = build_net(problem)
    check_floor(problem, net)
    search = Search(net, time.monotonic() + time_limit_s, interrupt, progress)
    search.widest = "schedules in the given order of first computations"
    search.raise_bound(search.widest, net.least_energy_j)
    search.enter(method.value)
    if method is Method.POET_MILP:
        search.reported.add(POETS_FAMILY)
        poet_milp(
            net,
            time_limit_s,
            threads,
            seed,
            interrupt,
            search.offer_actions,
            lambda bound: search.raise_bound(POETS_FAMILY, bound),
        )
    else:
        heuristics = {
            Method.DTR: dtr_schedule,
            Method.CAPUCHIN: capuchin_schedule,
            Method.CAPUCHIN_ENERGY: capuchin_on_energy,
        }
        with suppress(GiveUp):
            search.offer_actions(heuristics[method](net))
    schedule = place(problem, search, search.actions, time.monotonic() - search.started) if search.actions else None
    if schedule is None:
        raise infeasible(problem, net, method.value, 0.0)
    return schedule
