"""Swap or recompute after Capuchin (Peng et al., ASPLOS 2020).

A tensor that must leave RAM is given a fate: the cheaper of a swap (page-out once, page-in) and a recomputation with
that of its evicted ancestors. Victims are chosen by memory saving per cost (the paper's MSPS), the farthest next use
first among equals. The paper measures cost in *seconds*, for it is after throughput, and so does this; nothing of a
swap is hidden behind compute, for the cost model has no overlap. `capuchin_on_energy` is the same on joules, which is
kinder to it: where compute draws far more power than storage, seconds recompute what joules would page.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from poet_solver.baselines.greedy import Arena
from poet_solver.net import Net, NetMode, NetPage
from poet_solver.plan import Action


def capuchin_schedule(net: Net) -> tuple[Action, ...]:
    """A complete action list, by seconds as published. Raises GiveUp."""
    return _schedule(net, lambda cost: cost.time_s)


def capuchin_on_energy(net: Net) -> tuple[Action, ...]:
    """A complete action list, by joules. Raises GiveUp."""
    return _schedule(net, lambda cost: cost.energy_j)


def _schedule(net: Net, price: Callable[[NetMode | NetPage], float]) -> tuple[Action, ...]:
    def fate(arena: Arena, v: int) -> tuple[float, bool]:
        """(cost of bringing `v` back, by a swap)."""
        swap = math.inf
        back, out = net.page_in[v], net.page_out[v]
        if back is not None and arena.can_page(v):
            swap = price(back) + (price(out) if v not in arena.stored and out is not None else 0.0)
        again = recompute_cost(arena, v)
        return min(swap, again), swap <= again

    def recompute_cost(arena: Arena, v: int) -> float:
        if not arena.can_recompute(v):
            return math.inf
        cost, seen, queue = 0.0, set[int](), [net.producer[v]]
        while queue:
            k = queue.pop()
            if k in seen:
                continue
            seen.add(k)
            if not net.repeatable[k]:
                return math.inf
            cost += price(net.modes[k][0])
            for u in net.modes[k][0].resident:
                back = net.page_in[u] if u in arena.stored else None
                if u in arena.held:
                    continue
                if back is not None:
                    cost += price(back)
                else:
                    queue.append(net.producer[u])
        return cost

    def victim(arena: Arena, pinned: set[int]) -> tuple[int, bool] | None:
        best: tuple[tuple[float, float, int], bool] | None = None
        for v in arena.held - pinned:
            cost, is_swap = fate(arena, v)
            if not net.size[v] or math.isinf(cost):
                continue
            gain = (net.size[v] / max(cost, 1e-300), arena.next_use(v), v)
            if best is None or gain > best[0]:
                best = (gain, is_swap)
        return None if best is None else (best[0][2], best[1])

    return Arena(net, victim).run()
