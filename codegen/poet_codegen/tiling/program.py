"""A tiled op as a small program: loops around moves between storage, RAM and tiles, and calls of kernels.

The solver prices it, the emitter writes it as C, and tests walk it; so the costs that a mode claims are those of the
code that runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from poet_codegen.ops.registry import Kernel, Work

FLOAT_BYTES = 4
ROW_CRC_BYTES = 4
"""Of the checksum that each row of a frozen table on storage has (poet_page_rows)."""


@dataclass(frozen=True)
class Copy:
    """Which of a tile's two copies: the second, `distance_bytes` behind the first, where variables + `turn` are odd."""

    variables: tuple[str, ...]
    turn: int
    distance_bytes: int


@dataclass(frozen=True)
class Index:
    """A position in bytes: start + sum of step x loop variable; in the workspace, of a tile's copy."""

    start: int = 0
    steps: tuple[tuple[str, int], ...] = ()
    copy: Copy | None = None


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
    copy: Copy | None = None
    """Of the tile."""


@dataclass(frozen=True)
class Operand:
    """What a kernel is given: a place in a tensor that is in RAM, or in the workspace."""

    tensor: str | None
    at: Index


@dataclass(frozen=True)
class Number:
    """What a kernel is given by value: which unit of an axis comes first, counted as a position is."""

    at: Index


@dataclass(frozen=True)
class Call:
    """One kernel."""

    kernel: Kernel
    work: Work
    operands: tuple[Operand | Number, ...]
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


@dataclass(frozen=True)
class Start:
    """The device begins to read a tile: nothing uses it before a Wait."""

    move: Move


@dataclass(frozen=True)
class StartNext:
    """The device begins to read the tiles of the loop's next turn; in its last one, those of what follows it."""

    variable: str
    last: int
    """Value of the variable in the last turn; 0 in the first."""
    moves: tuple[Move, ...]
    after: tuple[Start | StartNext, ...]


@dataclass(frozen=True)
class Wait:
    """What was started is there."""


@dataclass(frozen=True)
class Check:
    """The checksum counts a tile that was started."""

    move: Move


Statement: TypeAlias = Move | Call | Pick | Loop | Start | StartNext | Wait | Check


@dataclass(frozen=True)
class Program:
    """A node in one tiled mode."""

    title: str
    """What it does, in words: '4 tiles of 8 output channels'."""
    workspace_bytes: int
    body: tuple[Statement, ...]

    def counted(self) -> Iterator[tuple[Move | Call | Pick, int]]:
        """Every move, call and pick with how often it happens; a move that is started is one like the others."""
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


def without_loops(body: Iterable[Statement]) -> Iterator[Statement]:
    """Every statement once, in the order of the text; of a loop those of its body."""
    for step in body:
        if isinstance(step, Loop):
            yield from without_loops(step.body)
        else:
            yield step


def _counted(body: Sequence[Statement], times: int) -> Iterator[tuple[Move | Call | Pick, int]]:
    for step in body:
        if isinstance(step, Loop):
            yield from _counted(step.body, times * (step.end - step.first))
        elif isinstance(step, StartNext):
            turns = times // (step.last + 1)
            yield from ((move, times - turns) for move in step.moves)
            yield from _counted(step.after, turns)
        elif isinstance(step, Start):
            yield step.move, times
        elif not isinstance(step, Wait | Check):
            yield step, times


def _renamed(body: tuple[Statement, ...], names: Mapping[str, str]) -> tuple[Statement, ...]:
    def of_move(move: Move) -> Move:
        return replace(move, tensor=names[move.tensor])

    def moved(operand: Operand) -> Operand:
        return operand if operand.tensor is None else replace(operand, tensor=names[operand.tensor])

    def start(step: Start | StartNext) -> Start | StartNext:
        if isinstance(step, Start):
            return replace(step, move=of_move(step.move))
        return replace(step, moves=tuple(map(of_move, step.moves)), after=tuple(map(start, step.after)))

    def one(step: Statement) -> Statement:
        if isinstance(step, Loop):
            return replace(step, body=_renamed(step.body, names))
        if isinstance(step, Move):
            return of_move(step)
        if isinstance(step, Start | StartNext):
            return start(step)
        if isinstance(step, Check):
            return replace(step, move=of_move(step.move))
        if isinstance(step, Wait):
            return step
        if isinstance(step, Pick):
            index = step.index and names[step.index]
            return replace(step, table=names[step.table], index=index, target=moved(step.target))
        places = tuple(item if isinstance(item, Number) else moved(item) for item in step.operands)
        # A part's tensors that the node does not have, such as a gradient in a tile, keep their names.
        arguments = tuple(names.get(name, name) for name in step.kernel.arguments)
        return replace(step, kernel=replace(step.kernel, arguments=arguments), operands=places)

    return tuple(one(step) for step in body)
