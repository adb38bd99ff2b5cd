"""Starts for problems whose ops have several modes: modes first, by what each op needs on its own; then paging.

An op's mode is the cheapest that leaves a share of the budget to others, with every page counted that it would need if
nothing else were in RAM. Paging by farthest next use then saves what memory is left for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from poet_solver.baselines.farthest import farthest_use_schedule
from poet_solver.baselines.greedy import GiveUp
from poet_solver.net import Net, NetMode
from poet_solver.plan import Action, Do

_SHARES = (1.0, 0.85, 0.7, 0.5, 0.35, 0.25, 0.15)


def has_choice(net: Net) -> bool:
    """Some op has several modes."""
    return any(len(row) > 1 for row in net.modes)


def streamed_starts(net: Net) -> Iterator[tuple[Action, ...]]:
    """Complete action lists, one for every share of the budget that an op may take."""
    tried: set[tuple[int, ...]] = set()
    for share in _SHARES:
        choice = _cheapest_modes(net, share)
        if choice in tried:
            continue
        tried.add(choice)
        single = replace(net, modes=tuple((row[m],) for row, m in zip(net.modes, choice, strict=True)))
        with suppress(GiveUp):
            actions = farthest_use_schedule(single)
            yield tuple((do, what, choice[what] if do is Do.COMPUTE else m) for do, what, m in actions)


def _cheapest_modes(net: Net, share: float) -> tuple[int, ...]:
    at_home = frozenset(net.modes[0][0].to_ram)
    home_bytes = sum(net.size[v] for v in at_home)
    choice = []
    for op, row in enumerate(net.modes):
        needs = [mode.footprint_bytes + home_bytes - _at_home_bytes(net, mode, at_home) for mode in row]
        room = [m for m, bytes_ in enumerate(needs) if op in (0, net.end) or bytes_ <= share * net.ram_bytes]
        room = room or [min(range(len(row)), key=needs.__getitem__)]
        energies = [_energy_alone(net, mode, at_home) for mode in row]
        choice.append(min(room, key=energies.__getitem__))
    return tuple(choice)


def _at_home_bytes(net: Net, mode: NetMode, at_home: frozenset[int]) -> int:
    return sum(net.size[v] for v in mode.resident if v in at_home)


def _energy_alone(net: Net, mode: NetMode, at_home: frozenset[int]) -> float:
    """Of the mode and of the pages that it takes when its operands come from storage and its outputs go there."""
    energy = mode.energy_j
    in_place = {new for old, new in mode.in_place if old in at_home}
    for v in mode.resident:
        page = net.page_in[v]
        energy += page.energy_j if page is not None and v not in at_home else 0.0
    for v in mode.to_ram:
        page = net.page_out[v]
        energy += page.energy_j if page is not None and v not in in_place else 0.0
    return energy
