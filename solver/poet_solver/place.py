"""From the best plan to a schedule with addresses, replayed; and the errors when there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from poet_solver.errors import InfeasibleError
from poet_solver.incumbent import Search, runs_in_order
from poet_solver.net import Net
from poet_solver.pack import layout_of, pack, peak_bytes, steps_of
from poet_solver.plan import Action
from poet_solver.problem import Place, Problem
from poet_solver.replay import replay, replay_steps
from poet_solver.schedule import Bound, Schedule, Status

OPTIMAL_GAP = 1e-4
"""Relative gap in total energy at which a schedule is called optimal."""

_SAME = 1e-12
"""Relative: sums of energies in another order."""

_DEADLINE_SLACK = 1e-9
"""Relative: sums of times in another order differ in their last bits."""

PACK_S = 5.0


def place(
    problem: Problem, search: Search, actions: tuple[Action, ...], solve_s: float, pack_s: float = PACK_S
) -> Schedule | None:
    """Offsets at the schedule's peak, else anywhere within the budget; then the replay. None: no packing found.

    `pack_s`: seconds for a search for offsets after the greedy ones; there may be two. Bounds are those of `search`;
    they hold whatever the addresses.
    """
    net = search.net
    layout = layout_of(net, actions)
    peak = peak_bytes(layout.rectangles)
    ceiling = problem.ram_bytes if problem.ram_bytes is not None else 2 * peak
    offsets = pack(layout.rectangles, peak, pack_s)
    if offsets is None and ceiling > peak:
        offsets = pack(layout.rectangles, ceiling, pack_s)
    if offsets is None:
        return None
    steps = steps_of(net, actions, layout, offsets)
    found = replay_steps(problem, steps)
    energy = found.energy.total
    bounds = tuple(
        Bound(family, min(search.bound_of(family), energy))
        for family in sorted(search.reported)
        if family in search.bounds
    )
    bound = min(search.bound_j, energy)
    notes: list[str] = []
    is_reordered = math.isfinite(search.fixed_order_j) and not runs_in_order(actions)
    if is_reordered:
        gain = 1 - energy / search.fixed_order_j
        notes.append(
            f"another order of first computations saves {gain:.4%} against the best seen in the given order; "
            "the bounds hold for the given order"
        )
    if energy > search.energy_j * (1 + 1e-9):
        loss = energy / search.energy_j - 1
        notes.append(f"addresses cost {loss:.4%}: schedules of less energy were found that no arena layout fits")
    schedule = Schedule(
        problem_digest=problem.digest(),
        status=_status(energy, bound),
        steps=steps,
        energy=found.energy,
        time=found.time,
        wear_bytes=found.wear_bytes,
        peak_bytes=found.peak_bytes,
        arena_bytes=found.arena_bytes,
        lower_bound_j=bound,
        bound_family=search.widest,
        solve_s=solve_s,
        other_bounds=bounds,
        notes=tuple(notes),
    )
    replay(problem, schedule)
    return schedule


def or_start(problem: Problem, found: Schedule | None, starts: Sequence[Schedule]) -> Schedule | None:
    """`found`, or the best start of this very problem where that needs no more energy.

    What is better than a start may have no addresses. What is as good may be the start itself with other addresses, for
    which the code may be an instruction longer: then the start's own are kept.
    """
    own = [start for start in starts if start.problem_digest == problem.digest()]
    start = min(own, key=lambda known: known.energy_j, default=None)
    if start is None or (found is not None and found.energy_j < start.energy_j * (1 - _SAME)):
        return found
    replay(problem, start)
    if found is None:
        return start
    bound_j = min(found.lower_bound_j, start.energy_j)
    return replace(
        start,
        status=_status(start.energy_j, bound_j),
        lower_bound_j=bound_j,
        bound_family=found.bound_family,
        other_bounds=found.other_bounds,
        solve_s=found.solve_s,
    )


def _status(energy_j: float, bound_j: float) -> Status:
    return Status.OPTIMAL if energy_j - bound_j <= OPTIMAL_GAP * energy_j else Status.FEASIBLE


def check_floor(problem: Problem, net: Net) -> None:
    """Raise InfeasibleError when one op alone does not fit, or what every schedule does outlasts the deadline."""
    op = net.largest_op()
    if problem.ram_bytes is not None and net.floor_bytes(op) > problem.ram_bytes:
        raise infeasible(problem, net, "any", 0.0)
    there = problem.ram_bytes or 0
    compute_s, home_s = _least_times_s(problem)
    least_s = compute_s + home_s
    if problem.deadline_s is not None and least_s > problem.deadline_s * (1.0 + _DEADLINE_SLACK):
        text = (
            f"{problem.name}: the deadline is {problem.deadline_s:.4g} s, but every op once takes {compute_s:.4g} s "
            f"and paging the tensors whose home is storage {home_s:.4g} s. Give a deadline of {least_s:.4g} s or more"
        )
        if compute_s:
            text += f", {math.ceil(100.0 * least_s / compute_s) / 100.0:g} times the compute time"
        raise InfeasibleError(f"{text}.", op_name=net.names[op], needed_bytes=net.floor_bytes(op), budget_bytes=there)


def _least_times_s(problem: Problem) -> tuple[float, float]:
    """Seconds that no schedule can do without: of every op's fastest mode, and of pages from and to homes on storage.

    A tensor is only counted where no mode streams it, or writes it to storage directly.
    """
    read = {v for op in problem.ops for v in set.intersection(*(set(mode.resident) for mode in op.modes))}
    direct = {v for op in problem.ops for mode in op.modes for v in mode.outputs_to_storage}
    home_s = 0.0
    for v, tensor in enumerate(problem.tensors):
        if not tensor.size_bytes:
            continue
        if tensor.start is Place.STORAGE and v in read and tensor.page_in:
            home_s += tensor.page_in.time_s
        if tensor.start is not Place.STORAGE and tensor.end is Place.STORAGE and v not in direct and tensor.page_out:
            home_s += tensor.page_out.time_s
    return problem.compute_time_s(), home_s


def infeasible(problem: Problem, net: Net, technique: str, bound_j: float) -> InfeasibleError:
    """The error that says what does not fit; `bound_j` infinite when it is proven that nothing does."""
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
