"""Search over topological orders: the order of first computations is free as long as every operand is made in time.

A move takes one op to another legal place in the order; the greedy start with the best genes is decoded on the moved
order and kept when it is better. The result is never worse than the schedule of the given order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from poet_solver.baselines.greedy import GiveUp
from poet_solver.baselines.hybrid import Genes, hybrid_schedule, mutated
from poet_solver.net import Net, build_net
from poet_solver.plan import Action, Do
from poet_solver.problem import Problem


@dataclass(frozen=True)
class Reordered:
    """A schedule in another order of first computations."""

    order: tuple[int, ...]
    """Ops of the problem in the order of their first runs."""
    net: Net
    """Of the problem in that order."""
    actions: tuple[Action, ...]
    """In the indices of that net."""


def predecessors(problem: Problem) -> list[set[int]]:
    """For every op those that must have run before: makers of its operands, and readers of what it overwrites."""
    made = problem.producer()
    before: list[set[int]] = []
    for k, op in enumerate(problem.ops):
        overwritten = {old for mode in op.modes for old, _ in mode.in_place}
        overwritten |= {h for v in op.outputs if (h := problem.tensors[v].home_of) is not None}
        makers = {m for v in op.operands() if (m := made[v]) is not None}
        readers = {c for c in range(k) if overwritten & set(problem.ops[c].operands())}
        before.append(makers | readers)
    return before


def moved(order: list[int], before: list[set[int]], rng: random.Random) -> list[int]:
    """The order with one op at another legal place."""
    at = rng.randrange(len(order))
    op = order[at]
    place = {k: i for i, k in enumerate(order)}
    low = max((place[u] + 1 for u in before[op]), default=0)
    high = min((place[k] for k in order[at + 1 :] if op in before[k]), default=len(order)) - 1
    to = rng.randint(low, high) if high > low else at
    rest = order[:at] + order[at + 1 :]
    return [*rest[:to], op, *rest[to:]]


def permuted_net(net: Net, order: Sequence[int]) -> Net:
    """The net of the problem with its ops in another order."""
    problem = replace(net.problem, ram_bytes=net.ram_bytes)
    return build_net(replace(problem, ops=tuple(problem.ops[k] for k in order)))


def in_given_order(net: Net, order: Sequence[int], actions: tuple[Action, ...]) -> tuple[Action, ...]:
    """Actions of the permuted net as actions of `net`."""
    back = [0, *(k + 1 for k in order), net.end]
    return tuple((do, back[what] if do is Do.COMPUTE else what, m) for do, what, m in actions)


def search_orders(
    net: Net,
    genes: Genes,
    seed: int,
    should_stop: Callable[[], bool],
    offer: Callable[[tuple[Action, ...]], bool],
    page: bool = True,
) -> Reordered | None:
    """Offer schedules of other orders until `should_stop()`; `offer` says whether one is the best so far.

    Returns the last such order, None if there was none.
    """
    rng = random.Random(seed)
    before = predecessors(net.problem)
    best = list(range(len(net.problem.ops)))
    found: Reordered | None = None
    while not should_stop():
        order, trial = best, genes
        for _ in range(rng.choice((1, 1, 2, 4, 8))):
            order = moved(order, before, rng)
        if rng.random() < 0.5:
            trial = mutated(genes, rng)
        if order == best:
            continue
        permuted = permuted_net(net, order)
        try:
            actions = hybrid_schedule(permuted, trial, page)
        except GiveUp:
            continue
        if offer(in_given_order(net, order, actions)):
            best, genes = order, trial
            found = Reordered(tuple(order), permuted, actions)
    return found
