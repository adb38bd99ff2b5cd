"""Problem -> Schedule: paging-only start, CP-SAT over growing families, offsets, replay (DESIGN §5).

"Optimal" means: no schedule of the family named in `bound_family` uses less energy by more than one part in 10,000.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from poet_solver.cpsat import Interrupt, SearchLimits, search
from poet_solver.errors import InfeasibleError
from poet_solver.memory import memory_of, tighten
from poet_solver.model import Freedom, Model, build_model
from poet_solver.net import Net, build_net
from poet_solver.pack import layout_of, pack, peak_bytes, steps_of
from poet_solver.plan import Action, Do, Plan, actions_of_plan, complete, plan_of_point, point_of_plan
from poet_solver.problem import Problem
from poet_solver.replay import replay, replay_steps
from poet_solver.schedule import Schedule, Status
from poet_solver.slots import PAGING_ONLY, WIDE, Family

OPTIMAL_GAP = 1e-4
"""Relative gap in total energy at which a schedule is called optimal."""

_MOST_SLOTS = 9000
"""A larger family is not searched whole."""


class Technique(StrEnum):
    """What a schedule may do to fit."""

    BOTH = "both"
    PAGE = "page"
    REMAT = "remat"
    KEEP = "keep"


@dataclass(frozen=True)
class Progress:
    """News from a running solve."""

    phase: str
    elapsed_s: float
    energy_j: float
    """Of the best schedule so far; infinity before the first."""
    bound_j: float
    """Best lower bound so far, of the final family."""

    @property
    def gap(self) -> float:
        """Relative distance of the two."""
        return 1.0 if math.isinf(self.energy_j) else max(0.0, self.energy_j - self.bound_j) / self.energy_j


@dataclass
class Search:
    """The best plan and bound so far."""

    net: Net
    deadline: float
    progress: Callable[[Progress], None] | None
    started: float
    interrupt: Interrupt
    plan: Plan | None = None
    actions: tuple[Action, ...] = ()
    energy_j: float = math.inf
    bound_j: float = 0.0
    freedom: Freedom | None = None
    """What `bound_j` holds for."""
    phase: str = "start"
    has_overrun: bool = False
    """A point broke a budget by rounding: the search is repeated strictly."""

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    @property
    def closed(self) -> bool:
        """Nothing is left to find in the family of the bound."""
        return self.energy_j - self.bound_j <= 1e-6 * self.energy_j

    def tell(self) -> None:
        """Report progress."""
        if self.progress is not None:
            elapsed = time.monotonic() - self.started
            self.progress(Progress(self.phase, elapsed, self.energy_j, self.bound_j))

    def offer(self, plan: Plan) -> bool:
        """Take the plan if it is legal and better."""
        actions = complete(self.net, actions_of_plan(self.net, plan))
        energy, seconds, wear = costs_of(self.net, actions)
        problem = self.net.problem
        if (problem.deadline_s is not None and seconds > problem.deadline_s * (1 + 1e-9)) or (
            problem.wear_budget_bytes is not None and wear > problem.wear_budget_bytes * (1 + 1e-9)
        ):
            self.has_overrun = True
            return False
        if energy >= self.energy_j or peak_bytes(layout_of(self.net, actions).rectangles) > self.net.ram_bytes:
            return False
        self.plan, self.actions, self.energy_j = plan, actions, energy
        self.tell()
        return True

    def raise_bound(self, bound_j: float) -> None:
        """Take a better lower bound."""
        if bound_j > self.bound_j:
            self.bound_j = min(bound_j, self.energy_j)
            self.tell()


def costs_of(net: Net, actions: tuple[Action, ...]) -> tuple[float, float, float]:
    """Energy in joules (idle power included), time in seconds, wear in bytes."""
    energy = seconds = wear = 0.0
    for do, what, m in actions:
        if do is Do.FREE:
            continue
        cost = net.modes[what][m] if do is Do.COMPUTE else (net.page_in if do is Do.PAGE_IN else net.page_out)[what]
        assert cost is not None
        energy += cost.energy_j
        seconds += cost.time_s
        wear += cost.wear_bytes
    return energy, seconds, wear


def freedom_of(technique: Technique, family: Family) -> Freedom:
    """What `technique` allows within `family`."""
    match technique:
        case Technique.BOTH:
            return Freedom(family)
        case Technique.PAGE:
            return Freedom(PAGING_ONLY)
        case Technique.REMAT:
            return Freedom(family, page=False)
        case Technique.KEEP:
            return Freedom(PAGING_ONLY, page=False, page_once=True)


def solve(
    problem: Problem,
    *,
    time_limit_s: float = 60.0,
    threads: int = 1,
    seed: int = 0,
    technique: Technique | str = Technique.BOTH,
    progress: Callable[[Progress], None] | None = None,
    interrupt: Interrupt | None = None,
) -> Schedule:
    """The schedule of least energy that was found, replayed, with a lower bound.

    Raises InfeasibleError when no schedule of the technique fits (or none was found in time). `interrupt.set()` from
    another thread ends the search early with the best so far.
    """
    technique = Technique(technique)
    interrupt = interrupt or Interrupt()
    started = time.monotonic()
    budget: int | None = None
    while True:
        state = search_plan(
            problem,
            deadline=started + time_limit_s,
            interrupt=interrupt,
            ram_bytes=budget,
            threads=threads,
            seed=seed,
            technique=technique,
            progress=progress,
        )
        peak = peak_bytes(layout_of(state.net, state.actions).rectangles)
        schedule = _place(problem, state, budget, peak, time.monotonic() - started)
        if schedule is not None:
            return schedule
        budget = peak - _step_down(state.net)


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
) -> Search:
    """The search without offsets, until `deadline` (monotonic seconds); `ram_bytes` replaces the problem's budget.

    Raises InfeasibleError.
    """
    net = build_net(problem, ram_bytes)
    check_floor(problem, net)
    state = Search(net, deadline, progress, time.monotonic(), interrupt)
    _search_families(state, technique, seed, threads)
    if state.plan is None:
        raise _infeasible(problem, net, technique, state.bound_j)
    return state


def _step_down(net: Net) -> int:
    """By how much the memory budget is lowered when a schedule could not be packed: its smallest tensor."""
    return min((size for size in net.size if size), default=1)


def _place(problem: Problem, state: Search, budget: int | None, peak: int, solve_s: float) -> Schedule | None:
    """Offsets at the schedule's peak, else anywhere within the budget; then the replay. None: no packing found.

    `budget` is not None when the memory budget was lowered because a better schedule could not be packed.
    """
    net = state.net
    layout = layout_of(net, state.actions)
    ceiling = problem.ram_bytes if problem.ram_bytes is not None else 2 * peak
    offsets = pack(layout.rectangles, peak, 20.0)
    if offsets is None and ceiling > peak:
        offsets = pack(layout.rectangles, ceiling, 20.0)
    if offsets is None:
        return None
    steps = steps_of(net, state.actions, layout, offsets)
    found = replay_steps(problem, steps)
    bound = min(state.bound_j, found.energy.total)
    assert state.freedom is not None
    family = state.freedom.describe()
    if budget is not None:
        family += f", that need at most {budget} bytes before they are given addresses"
    is_optimal = found.energy.total - bound <= OPTIMAL_GAP * found.energy.total
    schedule = Schedule(
        problem_digest=problem.digest(),
        status=Status.OPTIMAL if is_optimal else Status.FEASIBLE,
        steps=steps,
        energy=found.energy,
        time=found.time,
        wear_bytes=found.wear_bytes,
        peak_bytes=found.peak_bytes,
        arena_bytes=found.arena_bytes,
        lower_bound_j=bound,
        bound_family=family,
        solve_s=solve_s,
    )
    replay(problem, schedule)
    return schedule


def check_floor(problem: Problem, net: Net) -> None:
    """Raise InfeasibleError when one op alone does not fit."""
    op = net.largest_op()
    if problem.ram_bytes is not None and net.floor_bytes(op) > problem.ram_bytes:
        raise _infeasible(problem, net, Technique.BOTH, 0.0)


def _infeasible(problem: Problem, net: Net, technique: Technique, bound_j: float) -> InfeasibleError:
    op = net.largest_op()
    needed, there = net.floor_bytes(op), problem.ram_bytes or 0
    what = {"start": "the tensors that start in RAM", "end": "the tensors that must end in RAM"}
    name = what.get(net.names[op], f"op {net.names[op]}") if op in (0, net.end) else f"op {net.names[op]}"
    if problem.ram_bytes is not None and needed > there:
        text = f"{problem.name}: {name} alone needs {needed} bytes, the RAM budget is {there} bytes. Raise the budget."
    elif math.isinf(bound_j):
        text = (
            f"{problem.name}: no schedule of technique '{technique}' fits {there} bytes of RAM, the deadline and the "
            f"wear budget together, although {name}, the largest, needs only {needed} bytes. Raise a budget; "
            "'poet-solver min-ram' finds the smallest RAM that works."
        )
    else:
        text = (
            f"{problem.name}: no schedule of technique '{technique}' was found in time for {there} bytes of RAM "
            f"({name}, the largest, needs {needed} bytes). Raise the time limit or a budget."
        )
    return InfeasibleError(text, op_name=net.names[op], needed_bytes=needed, budget_bytes=there)


def _search_families(state: Search, technique: Technique, seed: int, threads: int) -> None:
    """Search ever wider families, each hinting the next."""
    del threads
    families = [PAGING_ONLY, Family(hops=4), Family(hops=8), Family(), WIDE]
    if technique in (Technique.PAGE, Technique.KEEP):
        families = [PAGING_ONLY]
    shares = np.linspace(0.1, 0.3, len(families))
    for number, family in enumerate(families):
        freedom = freedom_of(technique, family)
        model = build_model(state.net, freedom)
        if len(model.keys) > _MOST_SLOTS:
            break
        tighten(model)
        state.freedom = freedom
        state.bound_j = 0.0
        state.phase = family.describe()
        is_final = number == len(families) - 1
        limit = state.left_s if is_final else state.left_s * float(shares[number])
        _search_one(state, model, SearchLimits(time_s=max(limit, 0.5), seed=seed))
        if state.interrupt.stop or state.left_s <= 0:
            break
        if math.isinf(state.bound_j) and family.recompute:
            break


def _search_one(state: Search, model: Model, limits: SearchLimits) -> None:
    rows = memory_of(model).binding_rows()
    hint = point_of_plan(model, state.plan) if state.plan is not None else None

    def on_point(point: NDArray[np.float64], _energy_j: float) -> None:
        state.offer(plan_of_point(model, point))

    for strict in (False, True):
        state.has_overrun = False
        result = search(
            model,
            rows,
            replace(limits, strict=strict),
            hint=hint,
            below_j=state.energy_j,
            on_point=on_point,
            on_bound=None if strict else state.raise_bound,
            interrupt=state.interrupt,
        )
        if result.point is not None:
            state.offer(plan_of_point(model, result.point))
        if not strict:
            if result.infeasible and state.plan is not None:
                state.raise_bound(state.energy_j)
            else:
                state.raise_bound(result.bound_j)
        if not state.has_overrun:
            return
