"""A first lower bound on every schedule in the given order of first computations, in milliseconds.

While op s runs first, every tensor made before s that a first run after s surely reads is in RAM, or it is brought
back later: its op runs again, or it is paged in, and out where it is not stored. Tensors of the bytes that have no room
beside s must be brought back, at the least energy: a knapsack, of which the dearest s counts. What one tensor costs is
not counted for another: outputs of one op share the energy of its run.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from poet_solver.net import Net

Floats = NDArray[np.float64]

_EXACT = 8
"""Ops whose knapsack is solved exactly, those of the dearest relaxation first."""

_MOST_NODES = 2000
"""Of one knapsack's search tree; beyond them its relaxation counts."""


def cover_bound_j(net: Net, recompute: bool = True, page: bool = True) -> float:
    """Lower bound in joules on the total energy; infinity where what must stay in RAM does not fit."""
    base = net.least_energy_j
    cost = _costs_of_return(net, recompute, page)
    size = np.array(net.size, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_price = np.argsort(np.where(size > 0, cost / size, math.inf), kind="stable")
    size, cost = size[by_price], cost[by_price]
    producer = np.array(net.producer, np.int64)[by_price]
    last_read = _last_sure_reads(net)[by_price]
    rank = np.argsort(by_price)
    found: list[tuple[float, float, Floats, Floats]] = []
    for s in range(1, net.n_ops):
        waiting = (producer < s) & (last_read > s)
        waiting[rank[[*net.operands[s], *net.outputs[s]]]] = False
        bytes_, energy = size[waiting], cost[waiting]
        excess = float(bytes_.sum()) - (net.ram_bytes - net.floor_bytes(s))
        if excess > 0:
            found.append((_relaxed(bytes_, energy, excess), excess, bytes_, energy))
    found.sort(key=lambda knapsack: -knapsack[0])
    best = found[0][0] if found else 0.0
    for relaxed, excess, bytes_, energy in found[:_EXACT]:
        best = max(best, _exact(bytes_, energy, excess, relaxed))
    return base + best


def _costs_of_return(net: Net, recompute: bool, page: bool) -> Floats:
    """Least energy of having a tensor again; infinity where that is impossible."""
    out = np.full(len(net.size), math.inf)
    for v, k in enumerate(net.producer):
        if recompute and net.repeatable[k]:
            out[v] = min(mode.energy_j for mode in net.usable[k]) / len(net.outputs[k])
        back, away = net.page_in[v], net.page_out[v]
        if back is not None and net.is_stored_unpaged(v):
            out[v] = min(out[v], back.energy_j)
        elif back is not None and away is not None and (page or net.ends_on_storage[v]):
            out[v] = min(out[v], back.energy_j + (0.0 if net.ends_on_storage[v] else away.energy_j))
    return out


def _last_sure_reads(net: Net) -> NDArray[np.int64]:
    """The last op whose first run reads the tensor in RAM in every mode; -1 where there is none."""
    out = np.full(len(net.size), -1, np.int64)
    for k in range(net.n_ops):
        out[list(net.sure_reads(k))] = k
    return out


def _relaxed(size: Floats, cost: Floats, excess: float) -> float:
    """Least cost of `excess` bytes when tensors may be taken in parts; they stand in ascending order of price."""
    upto = np.cumsum(size)
    last = int(np.searchsorted(upto, excess))
    if last >= len(size):
        return math.inf
    part = (excess - (upto[last - 1] if last else 0.0)) / size[last]
    return float(cost[:last].sum() + (part * cost[last] if part > 0 else 0.0))


def _exact(size: Floats, cost: Floats, excess: float, relaxed: float) -> float:
    """The same with whole tensors, by depth-first search; `relaxed` where the tree is too large."""
    sizes, costs = size.tolist(), cost.tolist()
    left = np.append(np.cumsum(size[::-1])[::-1], 0.0).tolist()
    best, nodes = math.inf, 0
    stack = [(0, excess, 0.0)]
    while stack:
        i, missing, spent = stack.pop()
        nodes += 1
        if nodes > _MOST_NODES:
            return relaxed
        if missing <= 0:
            best = min(best, spent)
            continue
        if left[i] < missing or spent + missing * (costs[i] / sizes[i]) >= best:
            continue
        stack.append((i + 1, missing, spent))
        stack.append((i + 1, missing - sizes[i], spent + costs[i]))
    return best
