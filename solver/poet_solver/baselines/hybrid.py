"""Randomised greedy schedules that page and recompute, evolved: starts for the exact search.

A victim is the held tensor with the least  w_v x cost^a / (bytes^b x distance^c),  where cost is the cheaper of paging
it back (and out, if it is not stored yet) and running its op with its evicted ancestors again, and distance is the
number of ops until its next first-time reader. The exponents, a weight w_v a tensor and a price factor a tensor
between paging and recomputation are the genes of a start; the best start's genes are mutated, with fresh ones mixed in.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass

from poet_solver.baselines.addresses import AddressArena, homes_of
from poet_solver.baselines.greedy import Arena, GiveUp
from poet_solver.incumbent import costs_of
from poet_solver.net import Net
from poet_solver.plan import Action


@dataclass(frozen=True)
class Genes:
    """Everything random about a start."""

    cost_power: float
    bytes_power: float
    distance_power: float
    weight: tuple[float, ...]
    """Logarithm of w_v."""
    paging_price: tuple[float, ...]
    """Logarithm of the factor on paging energy, when it is compared with recomputation."""
    home_key: tuple[float, ...]
    """Homes lie in ascending order of this, where the solver chooses them."""


def fresh_genes(net: Net, rng: random.Random) -> Genes:
    """New genes."""
    noise = rng.choice((0.0, 0.1, 0.5, 1.0))
    price = math.log(rng.choice((0.3, 1.0, 1.0, 3.0)))
    count = len(net.size)
    return Genes(
        rng.choice((0.5, 1.0, 1.0, 2.0)),
        rng.choice((0.5, 1.0, 1.0)),
        rng.choice((0.0, 0.5, 1.0, 2.0)),
        tuple(noise * rng.gauss(0, 1) for _ in range(count)),
        (price,) * count,
        tuple(rng.random() for _ in range(count)),
    )


def mutated(genes: Genes, rng: random.Random) -> Genes:
    """The genes with a few tensors changed."""
    rate = rng.choice((1, 2, 4, 10, 30)) / len(genes.weight)
    spread = rng.choice((0.3, 1.0, 3.0))
    return Genes(
        genes.cost_power,
        genes.bytes_power,
        genes.distance_power,
        tuple(w + spread * rng.gauss(0, 1) if rng.random() < rate else w for w in genes.weight),
        tuple(w + spread * rng.gauss(0, 1) if rng.random() < rate / 2 else w for w in genes.paging_price),
        tuple(rng.random() if rng.random() < rate / 2 else key for key in genes.home_key),
    )


def hybrid_schedule(net: Net, genes: Genes, page: bool = True, addresses: bool = False) -> tuple[Action, ...]:
    """The start that the genes stand for; with `addresses` one that can be packed. Raises GiveUp."""
    n = net.n_ops
    price = [math.exp(min(p, 300.0)) for p in genes.paging_price]
    base = [
        math.exp(max(-300.0, min(300.0, w))) / max(1, size) ** (0.0 if addresses else genes.bytes_power)
        for w, size in zip(genes.weight, net.size, strict=True)
    ]
    power = genes.cost_power

    def score(arena: Arena, v: int) -> tuple[float, bool] | None:
        swap = again = math.inf
        back, out = net.page_in[v], net.page_out[v]
        if back is not None and (v in arena.stored or (page and out is not None)):
            swap = back.energy_j + (out.energy_j if out is not None and v not in arena.stored else 0.0)
            swap *= price[v]
        if arena.can_recompute(v):
            again = _recompute_cost(arena, v, swap)
        cost = min(swap, again)
        if math.isinf(cost):
            return None
        distance = min(arena.next_use(v) - arena.done + 1, n)
        return base[v] * (cost + 1e-12) ** power / distance**genes.distance_power, swap <= again

    def victim(arena: Arena, pinned: set[int]) -> tuple[int, bool] | None:
        best: tuple[float, int, bool] | None = None
        for v in arena.held:
            if v in pinned or not net.size[v]:
                continue
            found = score(arena, v)
            if found is not None and (best is None or (found[0], v) < best[:2]):
                best = (found[0], v, found[1])
        return None if best is None else best[1:]

    if addresses:
        return AddressArena(net, victim, score=score, homes=homes_of(net, genes.home_key)).run()
    return Arena(net, victim).run()


def _recompute_cost(arena: Arena, v: int, limit: float) -> float:
    """Energy of running the op of `v` and of its evicted ancestors again, or something above `limit`."""
    net = arena.net
    cost, seen, queue = 0.0, set[int](), [net.producer[v]]
    while queue and cost <= limit:
        k = queue.pop()
        if k in seen:
            continue
        seen.add(k)
        if not net.repeatable[k]:
            return math.inf
        cost += net.modes[k][0].energy_j
        for u in net.modes[k][0].resident:
            if u in arena.held:
                continue
            if u in arena.stored:
                back = net.page_in[u]
                cost += back.energy_j if back is not None else math.inf
            else:
                queue.append(net.producer[u])
    return cost


def evolve(
    net: Net,
    seed: int,
    should_stop: Callable[[int], bool],
    offer: Callable[[tuple[Action, ...]], bool],
    page: bool = True,
    addresses: bool = False,
    best: Genes | None = None,
) -> Genes | None:
    """Offer starts until `should_stop(number of starts)`; returns the best genes, None if no start was legal.

    `best`: genes to go on from; else the first starts are all fresh.
    """
    rng = random.Random(seed)
    fresh = 40 if best is None else 0
    best_j = math.inf
    number = 0
    while not should_stop(number):
        is_first = best is not None and math.isinf(best_j)
        if is_first and best is not None:
            genes = best
        elif best is None or number < fresh or rng.random() < 0.15:
            genes = fresh_genes(net, rng)
        else:
            genes = mutated(best, rng)
        number += 1
        try:
            actions = hybrid_schedule(net, genes, page, addresses=addresses)
        except GiveUp:
            best_j = best_j if not is_first else sys.float_info.max
            continue
        is_best = offer(actions)
        energy, seconds, wear = costs_of(net, actions)
        is_late = seconds > (net.problem.deadline_s or math.inf) or wear > (net.problem.wear_budget_bytes or math.inf)
        if is_best or (energy < best_j and not is_late):
            best, best_j = genes, energy
    return best
