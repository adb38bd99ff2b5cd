"""Keep everything: every op once in its first mode, every tensor held until its last use."""

from __future__ import annotations

from poet_solver.net import Net, build_net
from poet_solver.pack import layout_of, peak_bytes
from poet_solver.plan import Plan, actions_of_plan, complete
from poet_solver.problem import Problem
from poet_solver.slots import MANDATORY


def keep_plan(net: Net) -> Plan:
    """The plan: tensors that start on storage are paged in before their first reader that needs them in RAM."""
    runs = tuple(((t, MANDATORY, t), 0) for t in range(net.n_ops))
    seen: set[int] = set()
    pages: set[tuple[tuple[int, int, int], int]] = set()
    for t in range(net.n_ops):
        for v in net.modes[t][0].resident:
            made_there = v in net.modes[net.producer[v]][0].to_storage
            if made_there and v not in seen:
                pages.add(((t, MANDATORY, t), v))
                seen.add(v)
    return Plan(runs, frozenset(pages))


def keep_everything_peak(problem: Problem) -> int:
    """Peak bytes of that schedule (P0), whatever the budget is."""
    net = build_net(problem, ram_bytes=None)
    return peak_bytes(layout_of(net, complete(net, actions_of_plan(keep_plan(net)))).rectangles)
