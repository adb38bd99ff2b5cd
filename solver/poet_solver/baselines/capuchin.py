"""Swap or recompute after Capuchin (Peng et al., ASPLOS 2020), on energy.

Measured by a first pass (here: the problem's own figures), each tensor is given a fate when it must leave RAM: the
cheaper of a swap (page-out once, page-in) and a recomputation priced, as in the paper, with every input available.
Victims are chosen by memory saving per energy, the farthest next use first among equals. The estimate ignores chains
of evicted inputs, and that is what makes the heuristic pay on tight budgets.
"""

from __future__ import annotations

from poet_solver.baselines.greedy import Arena
from poet_solver.net import Net
from poet_solver.plan import Action


def capuchin_schedule(net: Net) -> tuple[Action, ...]:
    """A complete action list. Raises GiveUp."""

    def fate(arena: Arena, v: int) -> tuple[float, bool]:
        swap = recompute = float("inf")
        back, out = net.page_in[v], net.page_out[v]
        if back is not None and arena.can_page(v):
            swap = back.energy_j + (out.energy_j if v not in arena.stored and out is not None else 0.0)
        if arena.can_recompute(v):
            recompute = net.modes[net.producer[v]][0].energy_j
        return min(swap, recompute), swap <= recompute

    def victim(arena: Arena, pinned: set[int]) -> tuple[int, bool] | None:
        choices = [v for v in arena.held - pinned if net.size[v] and fate(arena, v)[0] < float("inf")]
        if not choices:
            return None

        def gain(v: int) -> tuple[float, float, int]:
            cost, _ = fate(arena, v)
            return (net.size[v] / max(cost, 1e-300), arena.next_use(v), v)

        best = max(choices, key=gain)
        return best, fate(arena, best)[1]

    return Arena(net, victim).run()
