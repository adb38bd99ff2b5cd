"""The largest arena a board has room for: its RAM less the stack and the rest of the data, as the linker placed it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from poet_codegen.board import Board
from poet_codegen.build import write_project
from poet_codegen.errors import BoardError
from poet_codegen.plan import Plan
from poet_codegen.platformio.firmware import build_firmware

_ROUNDS = 4


def fit_to_board(board: Board, make: Callable[[int], Plan]) -> Plan:
    """The plan for the largest budget with which the linked firmware fits the board's RAM.

    `make(ram_bytes)` plans. How much is left depends a little on the plan itself (each marked step has a tick
    counter), so it is planned and linked until the two agree. A board for planning only has no firmware, and all but
    the stack is taken as free. Raises BoardError when the data alone fill the RAM, and what `make` and the build raise.
    """
    plan = make(board.ram.size_bytes - board.stack_bytes)
    if board.kind == "plan":
        return plan
    for _ in range(_ROUNDS):
        room = board.ram.size_bytes - board.stack_bytes - static_bytes(plan)
        room -= room % plan.train.lowered.problem.alignment_bytes
        if room <= 0:
            raise BoardError(
                f"On {board.name} buffers and tables of this model take {-room + 1} bytes more than its RAM of "
                f"{board.ram.size_bytes} bytes holds beside the stack. Use a smaller input, or a board with more RAM."
            )
        if plan.request.ram_bytes <= room:
            return plan
        plan = make(room)
    raise BoardError(f"No budget was found for {board.name} that its firmware leaves free. Give one with --ram.")


def static_bytes(plan: Plan) -> int:
    """Bytes of data beside arena and stack, from linking the plan's firmware as if the board had RAM to spare."""
    roomy = replace(
        plan.board,
        memory=tuple(
            replace(region, size_bytes=region.size_bytes + plan.train.schedule.arena_bytes)
            if region.name == plan.board.ram.name
            else region
            for region in plan.board.memory
        ),
    )
    with tempfile.TemporaryDirectory(prefix="poet-fit-") as folder:
        write_project(replace(plan, board=roomy), Path(folder))
        footprint = build_firmware(Path(folder), roomy).footprint
    return footprint.ram_static_bytes - footprint.ram_objects["poet_arena"]
