"""Greedy rematerialization after DTR (Kirisame et al., ICLR 2021): evict what is stale, large and cheap to make again.

Score of a held tensor: h = (its op's energy + that of its evicted neighbourhood) / (bytes x staleness); the least is
evicted (the paper's h_DTR-local with the neighbourhood restricted to evicted ancestors). No paging, no look-ahead; a
tensor that will not be read again by a first computation and is no ancestor of later ones goes first.
"""

from __future__ import annotations

from poet_solver.baselines.greedy import Arena
from poet_solver.net import Net
from poet_solver.plan import Action


def dtr_schedule(net: Net) -> tuple[Action, ...]:
    """A complete action list. Raises GiveUp."""

    def score(arena: Arena, v: int) -> tuple[float, int]:
        cost, seen, queue = 0.0, set[int](), [net.producer[v]]
        while queue:
            k = queue.pop()
            if k in seen:
                continue
            seen.add(k)
            cost += net.modes[k][0].energy_j
            queue += [net.producer[u] for u in net.modes[k][0].resident if u not in arena.held]
        staleness = len(arena.actions) - arena.touched.get(v, 0) + 1
        return cost / (net.size[v] * staleness), v

    def victim(arena: Arena, pinned: set[int]) -> tuple[int, bool] | None:
        choices = [v for v in arena.held - pinned if net.size[v] and (v in arena.stored or arena.can_recompute(v))]
        return (min(choices, key=lambda v: score(arena, v)), False) if choices else None

    return Arena(net, victim).run()
