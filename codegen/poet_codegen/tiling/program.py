"""A tiled op as a small program: loops around moves between storage, RAM and tiles, and calls of kernels.

The solver prices it, the emitter writes it as C, and tests walk it; so the costs that a mode claims are those of the
code that runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from poet_solver.problem import PageCost

from poet_codegen.board import PAGE_HEADER_BYTES, Board, both
from poet_codegen.cost_model import CostModel
from poet_codegen.ops.registry import Kernel, Work

FLOAT_BYTES = 4
ROW_CRC_BYTES = 4
"""Of the checksum that each row of a frozen table on storage has (poet_page_rows)."""


@dataclass(frozen=True)
class Index:
    """A position in bytes: start + sum of step x loop variable."""

    start: int = 0
    steps: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Shape:
    """Runs of equal length at equal distances in a tensor; they lie behind each other in a tile (poet_tile_t)."""

    run_bytes: int
    runs: int = 1
    stride_bytes: int = 0
    again_bytes: int = 0
    """So many bytes at the start of each run were in an earlier tile of the pass."""

    @property
    def size_bytes(self) -> int:
        """Of the tile."""
        return self.run_bytes * self.runs


@dataclass(frozen=True)
class Move:
    """A tile comes from a tensor, or goes there."""

    tensor: str
    """Name in the graph."""
    at: Index
    """Of the first run in the tensor."""
    shape: Shape
    buffer: int
    """Of the tile in the workspace, in bytes."""
    to_tensor: bool
    streamed: bool
    """The tensor is on storage; else it is in RAM."""


@dataclass(frozen=True)
class Operand:
    """What a kernel is given: a place in a tensor that is in RAM, or in the workspace."""

    tensor: str | None
    at: Index


@dataclass(frozen=True)
class Call:
    """One kernel."""

    kernel: Kernel
    work: Work
    operands: tuple[Operand, ...]
    """One for each of the kernel's arguments."""


@dataclass(frozen=True)
class Pick:
    """Rows of a table, by index; only they move, each with its checksum where the table is frozen on storage."""

    table: str
    rows: int
    """Of the table."""
    row_bytes: int
    count: int
    """Rows that are picked."""
    index: str | None
    """Tensor of int32; None: `constants`."""
    constants: tuple[int, ...]
    at: Index
    """Of the first index, in bytes."""
    target: Operand
    streamed: bool
    """The table is on storage; else in RAM or flash."""


@dataclass(frozen=True)
class Loop:
    """`variable` runs from `first` to `end` - 1."""

    variable: str
    first: int
    end: int
    body: tuple[Statement, ...]


Statement: TypeAlias = Move | Call | Pick | Loop


@dataclass(frozen=True)
class Program:
    """A node in one tiled mode."""

    title: str
    """What it does, in words: '4 tiles of 8 output channels'."""
    workspace_bytes: int
    body: tuple[Statement, ...]

    def counted(self) -> Iterator[tuple[Move | Call | Pick, int]]:
        """Every move, call and pick with how often it happens."""
        yield from _counted(self.body, 1)

    def calls(self) -> Iterator[Call]:
        """Every call once, in the order of the text."""
        yield from (step for step, _ in self.counted() if isinstance(step, Call))

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The kernels that it calls, in the order of the text."""
        return tuple(call.kernel for call in self.calls())

    @property
    def profile_name(self) -> str:
        """What a profile calls it: equal programs of a model have equal names."""
        return f"tiles_{hashlib.sha256(repr(self).encode()).hexdigest()[:16]}"

    def renamed(self, names: Mapping[str, str]) -> Program:
        """The same for another node: tensor -> the one in its place."""
        return replace(self, body=_renamed(self.body, names))

    def streams(self) -> dict[tuple[str, bool], int]:
        """(tensor, written) -> bytes moved in all passes, each byte of a pass once; in the order of the text."""
        found: dict[tuple[str, bool], int] = {}
        for step, times in self.counted():
            if isinstance(step, Move) and step.streamed:
                fresh = step.shape.size_bytes - step.shape.again_bytes * step.shape.runs
                key = (step.tensor, step.to_tensor)
                found[key] = found.get(key, 0) + times * fresh
        return found


def _counted(body: tuple[Statement, ...], times: int) -> Iterator[tuple[Move | Call | Pick, int]]:
    for step in body:
        if isinstance(step, Loop):
            yield from _counted(step.body, times * (step.end - step.first))
        else:
            yield step, times


def _renamed(body: tuple[Statement, ...], names: Mapping[str, str]) -> tuple[Statement, ...]:
    def moved(operand: Operand) -> Operand:
        return operand if operand.tensor is None else replace(operand, tensor=names[operand.tensor])

    def one(step: Statement) -> Statement:
        if isinstance(step, Loop):
            return replace(step, body=_renamed(step.body, names))
        if isinstance(step, Move):
            return replace(step, tensor=names[step.tensor])
        if isinstance(step, Pick):
            index = step.index and names[step.index]
            return replace(step, table=names[step.table], index=index, target=moved(step.target))
        places = tuple(moved(operand) for operand in step.operands)
        # A part's tensors that the node does not have, such as a gradient in a tile, keep their names.
        arguments = tuple(names.get(name, name) for name in step.kernel.arguments)
        return replace(step, kernel=replace(step.kernel, arguments=arguments), operands=places)

    return tuple(one(step) for step in body)


@dataclass(frozen=True)
class Cost:
    """Of a program on a board."""

    time_s: float
    energy_j: float
    wear_bytes: float


@dataclass(frozen=True)
class Transfer:
    """So many equal transfers between storage and memory; of a header `data_bytes` is 0."""

    is_write: bool
    data_bytes: int
    header_bytes: int
    times: int
    erased_bytes: int = 0
    """Of a page that is erased before its first tile, where the device needs that."""

    def price(self, board: Board) -> PageCost:
        """What the storage device takes for one of them, by the board's model."""
        if not self.is_write:
            return board.page_in_cost(self.data_bytes + self.header_bytes)
        return both(board.write_cost(self.data_bytes + self.header_bytes), board.erase_cost(self.erased_bytes))


def transfers(program: Program, size_bytes: Mapping[str, int]) -> Iterator[Transfer]:
    """Every transfer, the header of each pass included. `size_bytes` are those of the streamed tensors."""
    for step, times in program.counted():
        if isinstance(step, Move) and step.streamed:
            yield Transfer(step.to_tensor, step.shape.run_bytes, 0, times * step.shape.runs)
        elif isinstance(step, Pick) and step.streamed:
            yield Transfer(False, step.row_bytes, 0, times * step.count)
            yield Transfer(False, 0, ROW_CRC_BYTES, times * step.count)
    for (tensor, is_write), moved in program.streams().items():
        passes, rest = divmod(moved, size_bytes[tensor])
        assert not rest, f"{program.title}: tiles of {tensor} do not cover it"
        page_bytes = PAGE_HEADER_BYTES + size_bytes[tensor] if is_write else 0
        yield Transfer(is_write, 0, PAGE_HEADER_BYTES, passes, page_bytes)


def device_cost(program: Program, board: Board, size_bytes: Mapping[str, int]) -> PageCost:
    """What the storage device takes for the program's transfers, by the board's model, checksums left out."""
    time_s = energy_j = 0.0
    for one in transfers(program, size_bytes):
        price = one.price(board)
        time_s += one.times * price.time_s
        energy_j += one.times * price.energy_j
    return PageCost(time_s, energy_j)


def cost(program: Program, costs: CostModel, size_bytes: Mapping[str, int]) -> Cost:
    """Compute, and every transfer with its latency and checksum. `size_bytes` are those of the streamed tensors.

    A profile that has the whole program prices what the processor does in it.
    """
    board = costs.board
    device = device_cost(program, board, size_bytes)
    profiled = None
    if costs.costs is not None:
        profiled = costs.program_cycles(program.profile_name, program.kernels, device.time_s)
    if profiled is not None:
        wear = sum(one.times * one.price(board).wear_bytes for one in transfers(program, size_bytes))
        return Cost(
            device.time_s + profiled * board.seconds_per_cycle,
            device.energy_j + profiled * board.energy_per_cycle_j,
            wear,
        )
    cycles = 0.0
    time_s = energy_j = wear_bytes = 0.0
    for step, times in program.counted():
        if isinstance(step, Call):
            cycles += times * costs.kernel_cycles(step.kernel, step.work)
        elif not step.streamed:
            moved = step.shape.size_bytes if isinstance(step, Move) else step.count * step.row_bytes
            copied = Work("elementwise", elements=moved // FLOAT_BYTES)
            cycles += times * costs.table_cycles(copied)
        elif isinstance(step, Move) and step.shape.runs > 1:
            cycles += times * costs.table_cycles(Work("tile"))
    for one in transfers(program, size_bytes):
        price = costs.with_checksum("page_out" if one.is_write else "page_in", one.data_bytes, one.price(board))
        time_s += one.times * price.time_s
        energy_j += one.times * price.energy_j
        wear_bytes += one.times * price.wear_bytes
    return Cost(time_s + cycles * board.seconds_per_cycle, energy_j + cycles * board.energy_per_cycle_j, wear_bytes)
