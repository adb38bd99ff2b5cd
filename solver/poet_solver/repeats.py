"""Blocks that repeat, such as the layers of a transformer: a few of them are scheduled, and the others done alike.

Two ops are alike when all that the solver knows of them is: sizes and transfers of what they read and make, in what
order, and the costs and memory of each mode. A repeat is a stretch of ops in which each is like the one a period on:
the forward pass of equal layers is one, their backward pass another. All but a few of their blocks are cut out of the
problem; what is left reads, in place of a tensor that was made in a block cut out, its counterpart in the last block
before them. That this is a training step of the net with fewer layers need not be: the small problem's schedule only
gives a start, whose modes and pages each block takes over from one in the middle, and which is checked like any other.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from pydantic import ValidationError

from poet_solver.net import Net, build_net
from poet_solver.plan import Action, Do, Plan, complete
from poet_solver.problem import Mode, Problem
from poet_solver.slots import MANDATORY

_KEPT = 4
"""Blocks of a repeat that are scheduled: its ends, and what has blocks on both sides."""


@dataclass(frozen=True)
class Repeat:
    """A stretch of the net's ops."""

    first: int
    period: int
    count: int
    """Whole blocks."""


@dataclass(frozen=True)
class Fewer:
    """A net with fewer blocks."""

    net: Net
    like: tuple[int, ...]
    """For every op of the whole net the one of the small net that it does as."""


def repeats_of(net: Net) -> list[Repeat]:
    """Repeats of more than `_KEPT` blocks, in the order of their ops; where stretches overlap, the longest."""
    signs = [_signature(net, k) for k in range(net.n_ops)]
    found: list[Repeat] = []
    for period in range(1, net.n_ops // (_KEPT + 1) + 1):
        first = 0
        for k in range(net.n_ops - period + 1):
            if k + period < net.n_ops and signs[k] == signs[k + period]:
                continue
            count = (k + period - first) // period
            if count > _KEPT:
                found.append(Repeat(first, period, count))
            first = k + 1
    chosen: list[Repeat] = []
    for one in sorted(found, key=lambda one: (-one.count * one.period, one.period, one.first)):
        if all(one.first >= _end(other) or _end(one) <= other.first for other in chosen):
            chosen.append(one)
    return sorted(chosen, key=lambda one: one.first)


def _end(repeat: Repeat) -> int:
    return repeat.first + repeat.count * repeat.period


def _signature(net: Net, k: int) -> Hashable:
    """All that the solver knows of an op, with its tensors numbered."""
    number = {v: i for i, v in enumerate(dict.fromkeys((*net.operands[k], *net.outputs[k])))}
    tensors = tuple(
        (net.size[v], net.page_in[v], net.page_out[v], net.starts_on_storage[v], net.ends_on_storage[v]) for v in number
    )
    modes = tuple(
        (
            *(tuple(number[v] for v in part) for part in (mode.resident, mode.streamed, mode.to_storage)),
            tuple((number[old], number[new]) for old, new in mode.in_place),
            *(mode.new_bytes, mode.energy_j, mode.time_s, mode.wear_bytes),
        )
        for mode in net.modes[k]
    )
    return net.repeatable[k], tensors, modes


def with_fewer_blocks(net: Net, repeats: list[Repeat], ram_bytes: int) -> Fewer | None:
    """Cut as many blocks out of each repeat as the shortest can spare: the last but one and others before it where it
    is the first repeat, the second and others after it where it is a later one, as in a backward pass.

    None where what is left is no problem.
    """
    cut = min(one.count for one in repeats) - _KEPT
    like = list(range(net.n_ops))
    counterpart: dict[int, int] = {}
    for number, one in enumerate(repeats):
        at = one.count - 1 - cut if number == 0 else 1
        middle = at - 1 if number == 0 else at + cut
        for block in range(at, at + cut):
            for i in range(one.period):
                k = one.first + block * one.period + i
                like[k] = one.first + middle * one.period + i
                before = one.first + (at - 1) * one.period + i
                counterpart.update(zip(net.outputs[k], net.outputs[before], strict=True))
    kept = [k for k in range(1, net.end) if like[k] == k]
    try:
        problem = _only(net, [k - 1 for k in kept], counterpart)
    except (ValidationError, KeyError):
        return None
    place = {0: 0, net.end: len(kept) + 1, **{k: i + 1 for i, k in enumerate(kept)}}
    return Fewer(build_net(problem, ram_bytes), tuple(place[k] for k in like))


def _only(net: Net, kept: list[int], counterpart: dict[int, int]) -> Problem:
    """The problem of some ops, with counterparts for what no op makes any more."""
    problem = net.problem

    def others(tensors: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(counterpart.get(v, v) for v in tensors)

    used: set[int] = set()
    for k in kept:
        used.update(others(problem.ops[k].operands()), problem.ops[k].outputs)
    for v in list(used):
        used |= {u for u in (problem.tensors[v].home_of, problem.tensors[v].home_like) if u is not None}
    number = {v: i for i, v in enumerate(sorted(used))}

    def numbers(tensors: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(number[v] for v in others(tensors))

    def mode_of(mode: Mode) -> Mode:
        return replace(
            mode,
            resident=numbers(mode.resident),
            streamed=numbers(mode.streamed),
            outputs_to_storage=numbers(mode.outputs_to_storage),
            in_place=tuple((number[counterpart.get(old, old)], number[new]) for old, new in mode.in_place),
        )

    def home(v: int | None) -> int | None:
        return None if v is None else number[v]

    return replace(
        problem,
        tensors=tuple(
            replace(tensor, home_of=home(tensor.home_of), home_like=home(tensor.home_like))
            for tensor in (problem.tensors[v] for v in number)
        ),
        ops=tuple(
            replace(op, outputs=numbers(op.outputs), modes=tuple(map(mode_of, op.modes)))
            for op in (problem.ops[k] for k in kept)
        ),
    )


def spread(net: Net, fewer: Fewer, plan: Plan) -> tuple[Action, ...] | None:
    """Every op of the net in the mode, and with the pages before it, of the op that it does as; None where that is no
    schedule. Memory is not looked at. What runs again in the small net is left out."""
    modes = {key[2]: m for key, m in plan.runs if key[1] == MANDATORY}
    pages: dict[int, set[int]] = {}
    for (_, pass_, op), v in plan.page_ins:
        if pass_ == MANDATORY:
            pages.setdefault(op, set()).add(v)
    actions: list[Action] = []
    there: set[int] = set()
    stored = {v for v, is_there in enumerate(net.starts_on_storage) if is_there}
    for k, op in enumerate(fewer.like):
        m = modes[op]
        mode = net.modes[k][m]
        for v, same in zip(mode.resident, fewer.net.modes[op][m].resident, strict=True):
            if same in pages.get(op, ()) or v not in there:
                if net.page_in[v] is None or (v not in stored and net.page_out[v] is None):
                    return None
                actions.append((Do.PAGE_IN, v, 0))
                there.add(v)
        if any(v not in stored and net.page_out[v] is None for v in mode.streamed):
            return None
        actions.append((Do.COMPUTE, k, m))
        there -= {old for old, _ in mode.in_place}
        there |= set(mode.to_ram)
        stored |= set(mode.to_storage)
    return complete(net, tuple(actions))
