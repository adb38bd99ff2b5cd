"""Problem -> Schedule (DESIGN §5): the search's phases, then addresses for the best plan, or repair, and the replay.

"Optimal" means: no schedule of the family named in `bound_family` uses less energy by more than one part in 10,000.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from poet_solver.baselines.stream import has_choice
from poet_solver.incumbent import Progress, Search
from poet_solver.interrupt import Interrupt
from poet_solver.net import build_net
from poet_solver.pack import actions_of_steps
from poet_solver.phases import Run, Technique
from poet_solver.place import PACK_S, check_floor, infeasible, or_start, place
from poet_solver.plan import complete
from poet_solver.problem import Place, Problem
from poet_solver.schedule import Schedule

_LARGE_OPS = 1000
"""Larger problems keep time for offsets, and look for schedules that can be given some from the start."""

_REPAIR_SHARES = (0.98, 0.95, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7, 0.6, 0.5)
"""Shares of the memory budget that a repair searches within."""

_LEAST_PACK_S = 1.0
_LEAST_REPAIR_S = 5.0
"""Even past the time limit, so that there is a schedule at all."""


def solve(
    problem: Problem,
    *,
    time_limit_s: float = 60.0,
    threads: int = 1,
    seed: int = 0,
    technique: Technique | str = Technique.BOTH,
    progress: Callable[[Progress], None] | None = None,
    interrupt: Interrupt | None = None,
    free_order: bool = True,
    starts: Sequence[Schedule] = (),
) -> Schedule:
    """The schedule of least energy that was found, replayed, with a lower bound.

    With `free_order` first computations may leave the problem's order where that saves energy; the bound is for the
    given order all the same, and a note says what was gained. `starts` are schedules of a problem with these ops and
    tensors, such as those of other techniques: the search begins with the best that is legal here, and those of this
    very problem are never given up for a dearer one.
    Raises InfeasibleError when no schedule of the technique fits (or none was found in time). `interrupt.set()` from
    another thread ends the search early with the best so far.
    """
    technique = Technique(technique)
    interrupt = interrupt or Interrupt()
    started = time.monotonic()
    has_homes = any(Place.RAM in (t.start, t.end) for t in problem.tensors)
    is_large = len(problem.ops) > _LARGE_OPS
    has_modes = any(len(op.modes) > 1 for op in problem.ops)
    search = search_plan(
        problem,
        deadline=started + time_limit_s * (0.6 if has_homes else 0.85 if is_large else 0.92 if has_modes else 0.97),
        interrupt=interrupt,
        threads=threads,
        seed=seed,
        technique=technique,
        progress=progress,
        free_order=free_order,
        starts=starts,
    )
    pack_s = min(PACK_S, max(_LEAST_PACK_S, 0.6 * (started + time_limit_s - time.monotonic())))
    schedule = place(problem, search, search.actions, time.monotonic() - started, pack_s)
    if schedule is None:
        search.pack_improvements(started + time_limit_s)
        if not search.packed_actions or started + time_limit_s - time.monotonic() > _LEAST_REPAIR_S:
            repair(search, started + time_limit_s, technique, threads, seed)
        if search.packed_actions:
            schedule = place(problem, search, search.packed_actions, time.monotonic() - started, _LEAST_PACK_S)
    schedule = or_start(problem, schedule, starts)
    if schedule is None:
        raise infeasible(problem, search.net, technique, 0.0)
    return schedule


def repair(search: Search, deadline: float, technique: Technique, threads: int, seed: int) -> None:
    """Look for the best plan that can be given addresses; it ends up in `search.packed_actions`.

    Greedy starts are tested for packing first; then the search is repeated with ever less memory, and every plan on the
    way is tested at the full budget, until a plan without addresses is no better than the best with them.
    """
    problem, net = search.net.problem, search.net
    search.test_packing = search.prefer_packed = True
    search.deadline = max(deadline, time.monotonic() + _LEAST_REPAIR_S)
    is_hurried = search.interrupt.stop
    if is_hurried:
        search.interrupt = Interrupt()
        search.deadline = time.monotonic() + _LEAST_REPAIR_S
    run = Run(search, technique, seed + 1, threads, False)
    if technique in (Technique.BOTH, Technique.REMAT):
        run.evolve(min(4.0, 0.4 * search.left_s), most=5000, addresses=True)
    for share in _REPAIR_SHARES:
        budget = int(share * net.ram_bytes)
        is_done = search.interrupt.stop or (is_hurried and search.packed_actions)
        if is_done or budget < net.floor_bytes(net.largest_op()):
            break
        search.enter(f"repair of addresses: {budget} bytes")
        trial = Search(build_net(problem, budget), search.deadline, search.interrupt, test_packing=True)
        trial.deadline = min(search.deadline, time.monotonic() + max(1.0, 0.4 * search.left_s))
        Run(trial, technique, seed, threads, False).all()
        if trial.packed_energy_j < search.packed_energy_j:
            search.packed_actions, search.packed_energy_j = trial.packed_actions, trial.packed_energy_j
        if search.packed_actions and (trial.energy_j >= search.packed_energy_j or search.left_s <= 0):
            break


def search_plan(
    problem: Problem,
    *,
    deadline: float,
    interrupt: Interrupt,
    ram_bytes: int | None = None,
    threads: int = 1,
    seed: int = 0,
    technique: Technique = Technique.BOTH,
    progress: Callable[[Progress], None] | None = None,
    free_order: bool = True,
    starts: Sequence[Schedule] = (),
) -> Search:
    """The search without offsets, until `deadline` (monotonic seconds); `ram_bytes` replaces the problem's budget.

    Raises InfeasibleError.
    """
    net = build_net(problem, ram_bytes)
    check_floor(problem, net)
    search = Search(net, deadline, interrupt, progress, test_packing=net.n_ops > _LARGE_OPS or has_choice(net))
    for start in starts:
        search.offer_actions(complete(net, actions_of_steps(net, start.steps)))
    Run(search, technique, seed, threads, free_order).all()
    if not search.actions:
        raise infeasible(problem, net, technique, search.bound_j)
    return search
