"""How long storage lasts: the wear of a schedule against the endurance in the board file."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from poet_solver.problem import PageCost, Problem

from poet_codegen.board import Board
from poet_codegen.emit.pages import CHECKPOINT_SLOTS, ring_units
from poet_codegen.errors import BoardError


@dataclass(frozen=True)
class Wear:
    """What training takes of a board's storage."""

    bytes_a_step: float
    """Erased, or written where nothing is erased."""
    unit_bytes: int | None
    """What is erased at once; None: nothing is."""
    steps: int | None
    """Training steps until the first unit is worn out; None: unlimited, or the board file gives no endurance."""
    checkpoints: int | None
    """Likewise, checkpoints."""


def wear_of(board: Board, ring: int, wear_bytes: float) -> Wear:
    """The wear of a schedule that erases `wear_bytes` a step, with a ring of so many units.

    On storage that is erased, the window of pages comes to all units of the ring alike (firmware's page.h). Other
    storage is taken to spread writes over itself, as SD cards do.
    """
    storage = board.storage
    unit_bytes = None if storage.erase is None else storage.erase.block_bytes
    if storage.endurance_erases is None:
        return Wear(wear_bytes, unit_bytes, None, None)
    endurance = int(storage.endurance_erases.value)
    if not wear_bytes:
        steps = None
    elif unit_bytes is None:
        steps = int(endurance * storage.size_bytes / wear_bytes)
    else:
        steps = math.floor(endurance / (wear_bytes / unit_bytes)) * ring
    return Wear(wear_bytes, unit_bytes, steps, None if unit_bytes is None else endurance * CHECKPOINT_SLOTS)


def wear_budget_bytes(board: Board, checkpoint_bytes: int, steps: int) -> float:
    """Bytes that each of `steps` training steps may erase so that storage outlasts them: the inverse of `wear_of`.

    Raises BoardError where the board file does not say what the device endures.
    """
    storage = board.storage
    if storage.endurance_erases is None:
        raise BoardError(
            f"The board file of {board.name} gives no endurance_erases for {storage.models}, so that --lifetime cannot "
            "be kept. Add it from the data sheet, or leave --lifetime out."
        )
    endurance = int(storage.endurance_erases.value)
    if storage.erase is None:
        return endurance * storage.size_bytes / steps
    rounds = math.ceil(steps / max(1, ring_units(board, checkpoint_bytes)))
    return float(endurance // rounds * storage.erase.block_bytes)


def as_least_wear(problem: Problem) -> Problem:
    """The problem of the schedule that wears storage least: its energies are wear, and there is no wear budget.

    A little of the energy stays, so that no schedule costs nothing.
    """
    scale = 1e-6 / (sum(op.modes[0].energy_j for op in problem.ops) or 1.0)

    def page(cost: PageCost | None) -> PageCost | None:
        return None if cost is None else replace(cost, energy_j=cost.wear_bytes + scale * cost.energy_j)

    return replace(
        problem,
        tensors=tuple(replace(t, page_in=page(t.page_in), page_out=page(t.page_out)) for t in problem.tensors),
        ops=tuple(
            replace(op, modes=tuple(replace(m, energy_j=m.wear_bytes + scale * m.energy_j) for m in op.modes))
            for op in problem.ops
        ),
        idle_power_w=0.0,
        wear_budget_bytes=None,
    )
