"""Loop nests of tiles: every operand is moved in the outermost loop that it lets, sums run over peeled loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from poet_codegen.tiling.bands import Bands
from poet_codegen.tiling.program import Index, Loop, Move, Statement


@dataclass(frozen=True)
class Tile:
    """Where a loop is: tile `first`, or `first` plus the loop's variable."""

    first: int
    variable: str | None
    bands: Bands | None = None

    @property
    def is_first(self) -> bool:
        """The first tile of its axis, and no other."""
        return self.first == 0 and self.variable is None

    def index(self, step_bytes: int) -> Index:
        """Of the tile in a tensor that has `step_bytes` from one to the next."""
        steps = ((self.variable, step_bytes),) if self.variable and step_bytes else ()
        return Index(self.first * step_bytes, steps)

    def source_index(self, row_bytes: int) -> Index:
        """Of the rows that a band needs."""
        assert self.bands is not None
        start = self.bands.source_row + (self.first - self.bands.first) * self.bands.source_step
        steps = ((self.variable, self.bands.source_step * row_bytes),) if self.variable else ()
        return Index(start * row_bytes, steps)


Where: TypeAlias = Mapping[str, Tile]
"""Axis -> tile."""


@dataclass(frozen=True)
class Axis:
    """One loop of the nest."""

    name: str
    tiles: int
    bands: tuple[Bands, ...] = ()
    peeled: bool = False
    """The first tile is apart from the others."""
    is_uneven: bool = False
    """The last tile is smaller than the others, and apart from them."""

    def pieces(self) -> list[tuple[int, int, Bands | None]]:
        """(first, count, bands) of tiles for which the loop's body is the same."""
        pieces: list[tuple[int, int, Bands | None]] = [(b.first, b.count, b) for b in self.bands]
        pieces = pieces or [(0, self.tiles, None)]
        first, count, bands = pieces[0]
        if self.peeled and count > 1:
            pieces[:1] = [(first, 1, bands), (first + 1, count - 1, bands)]
        first, count, bands = pieces[-1]
        if self.is_uneven and count > 1:
            pieces[-1:] = [(first, count - 1, bands), (first + count - 1, 1, bands)]
        return pieces


@dataclass(frozen=True)
class Operand:
    """What is moved: `move` for the tiles of the axes `along`."""

    along: str
    move: Callable[[Where], Move]


def add(*indices: Index) -> Index:
    """Sum of positions."""
    return Index(sum(i.start for i in indices), tuple(step for i in indices for step in i.steps))


def nest(
    axes: Sequence[Axis],
    loads: Sequence[Operand],
    body: Callable[[Where], Sequence[Statement]],
    stores: Sequence[Operand],
    after_sums: Callable[[Where], Sequence[Statement]] | None = None,
) -> tuple[Statement, ...]:
    """The nest: axes with one tile are no loops. `after_sums` comes behind the last axis, over which sums run."""
    order = [axis.name for axis in axes if axis.tiles > 1]

    def level(operand: Operand) -> int:
        return max((order.index(name) for name in operand.along if name in order), default=-1)

    def rereads(operand: Operand) -> list[str]:
        """Loops in which a pass over the tensor reads tiles that it has read."""
        own = [order.index(name) for name in operand.along if name in order]
        return [name for name in order[min(own) : max(own)] if name not in operand.along] if own else []

    sums_loop = axes[-1].tiles > 1
    again = {name for operand in loads for name in rereads(operand)}
    axes = [replace(axis, peeled=axis.peeled or axis.name in again) for axis in axes]

    def load(operand: Operand, where: Where) -> Move:
        move = operand.move(where)
        if all(where[name].is_first for name in rereads(operand)):
            return move
        return replace(move, shape=replace(move.shape, again_bytes=move.shape.run_bytes))

    def walk(rest: Sequence[Axis], where: Where, depth: int) -> tuple[Statement, ...]:
        steps: list[Statement] = [load(operand, where) for operand in loads if level(operand) == depth]
        is_outside_sums = rest[0].name == axes[-1].name if rest else not sums_loop
        if not rest:
            steps += body(where)
        for axis in rest[:1]:
            for first, count, bands in axis.pieces():
                variable = axis.name if count > 1 else None
                inner = walk(rest[1:], {**where, axis.name: Tile(first, variable, bands)}, depth + 1)
                steps += [Loop(axis.name, 0, count, inner)] if variable else inner
        if after_sums and is_outside_sums:
            steps += after_sums(where)
        steps += [operand.move(where) for operand in stores if level(operand) == depth]
        return tuple(steps)

    single = {axis.name: Tile(0, None, axis.bands[0] if axis.bands else None) for axis in axes if axis.tiles == 1}
    return walk([axis for axis in axes if axis.tiles > 1], single, -1)
