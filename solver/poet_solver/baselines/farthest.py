"""Paging with the farthest next use (Belady's rule): a start that is found at once whenever paging alone can fit."""

from __future__ import annotations

from poet_solver.baselines.greedy import Arena
from poet_solver.net import Net
from poet_solver.plan import Action


def farthest_use_schedule(net: Net) -> tuple[Action, ...]:
    """A complete action list. Raises GiveUp."""

    def victim(arena: Arena, pinned: set[int]) -> tuple[int, bool] | None:
        choices = [v for v in arena.held - pinned if arena.can_page(v) and net.size[v]]
        if not choices:
            return None
        return max(choices, key=lambda v: (arena.next_use(v), net.size[v], v)), True

    return Arena(net, victim).run()
