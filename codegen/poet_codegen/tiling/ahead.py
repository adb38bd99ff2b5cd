"""Double buffering: while kernels work on one tile, the storage device reads the next one into a second copy of it.

A program is a sequence of *turns*: tiles are read, and used. The tiles of turns lie alternately in the first and in the
second copy, through all loops. That is so of a tile which every turn that uses its place reads anew; what stays for
several turns is read as without.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeGuard

from poet_codegen.tiling.program import (
    Call,
    Check,
    Copy,
    Loop,
    Move,
    Operand,
    Pick,
    Program,
    Start,
    StartNext,
    Statement,
    Wait,
    without_loops,
)

MOST_STARTS = 8
"""POET_STORAGE_AHEAD_MOST of firmware/include/poet/storage.h; tests compare the two."""

WORDS = ", the next read meanwhile"
"""In the titles of such programs."""


def read_ahead(program: Program) -> Program | None:
    """The program with two copies of the tiles that are read ahead; None where there are none.

    What is never moved, such as sums, has bytes of the workspace to itself. Of programs that run in turn (`in_turn`)
    each is rewritten before.
    """
    places = _places(program.body)
    written = {tensor for tensor, is_written in program.streams() if is_written}
    every = [*_turns(_steps(program.body, _is_read))]
    renewed = [place for place in places if _is_renewed(place, every, written)]

    def is_ahead(one: Statement) -> bool:
        return _is_read(one) and any(one.buffer in place for place in renewed)

    steps = _steps(program.body, is_ahead)
    reading = [turn for turn in _turns(steps) if turn.loads]
    if not reading or _count(steps) < 2 or any(len(turn.loads) > MOST_STARTS for turn in reading):
        return None
    top, distance = program.workspace_bytes, {}
    for place in renewed:
        distance[place] = top - place.start
        top += place.end - place.start
    writer = _Writer(distance)
    first = map(Start, writer.first(steps, _Number()))
    return Program(program.title + WORDS, top, (*first, *writer.write(steps, _Number(), ())))


@dataclass(frozen=True)
class _Place:
    """Bytes of the workspace that hold a tile, or several in turn."""

    start: int
    end: int

    def __contains__(self, at: int) -> bool:
        return self.start <= at < self.end


@dataclass(frozen=True)
class _Number:
    """Of a turn, as far as it matters: odd where `variables` + `start` are."""

    variables: tuple[str, ...] = ()
    start: int = 0

    def later(self, turns: int) -> _Number:
        return replace(self, start=(self.start + turns) % 2)


@dataclass
class _Turn:
    """`loads` come first, then `work`; without loads it is what stands between turns."""

    loads: list[Move] = field(default_factory=list)
    work: list[Statement] = field(default_factory=list)


@dataclass
class _Loop:
    """Turns again and again."""

    variable: str
    count: int
    steps: list[_Turn | _Loop]


def _count(steps: Iterable[_Turn | _Loop]) -> int:
    """Turns that load."""
    return sum(step.count * _count(step.steps) if isinstance(step, _Loop) else bool(step.loads) for step in steps)


def _turns(steps: Iterable[_Turn | _Loop]) -> Iterator[_Turn]:
    for step in steps:
        if isinstance(step, _Loop):
            yield from _turns(step.steps)
        else:
            yield step


@dataclass(frozen=True)
class _Writer:
    """Writes turns as statements."""

    distance: Mapping[_Place, int]
    """Place -> how far behind the first copy the second one is."""

    def write(
        self, steps: Sequence[_Turn | _Loop], number: _Number, after: tuple[Start | StartNext, ...]
    ) -> Iterator[Statement]:
        """Steps of which the first turn has that number; in the last one what comes behind them is started."""
        for position, step in enumerate(steps):
            turns = _count([step])
            behind = steps[position + 1 :]
            following = tuple(map(Start, self.first(behind, number.later(turns)))) if _count(behind) else after
            if isinstance(step, _Loop):
                yield Loop(step.variable, 0, step.count, tuple(self.loop(step, number, following)))
            elif step.loads:
                yield from self.turn(step, number, following)
            else:
                yield from step.work
            number = number.later(turns)

    def loop(self, loop: _Loop, number: _Number, after: tuple[Start | StartNext, ...]) -> Iterator[Statement]:
        turns = _count(loop.steps)
        inside = replace(number, variables=(*number.variables, loop.variable)) if turns % 2 else number
        moves = (_next_turn(move, loop.variable) for move in self.first(loop.steps, inside.later(turns)))
        following = StartNext(loop.variable, loop.count - 1, tuple(moves), after)
        return self.write(loop.steps, inside, (following,) if turns else ())

    def turn(self, turn: _Turn, number: _Number, after: tuple[Start | StartNext, ...]) -> Iterator[Statement]:
        polled = sum(1 for _ in _leading_moves(turn.work))
        yield Wait()
        yield from turn.work[:polled]
        yield from after
        yield from (Check(self.move(load, number)) for load in turn.loads)
        yield from (self.in_copy(one, number) for one in turn.work[polled:])

    def first(self, steps: Iterable[_Turn | _Loop], number: _Number) -> tuple[Move, ...]:
        """The loads of the first turn, loops in their first turn."""
        for step in steps:
            if isinstance(step, _Loop) and _count(step.steps):
                return tuple(_first_turn(move, step.variable) for move in self.first(step.steps, number))
            if isinstance(step, _Turn) and step.loads:
                return tuple(self.move(load, number) for load in step.loads)
        return ()

    def move(self, move: Move, number: _Number) -> Move:
        buffer, copy = self.copy_of(move.buffer, number)
        return replace(move, buffer=buffer, copy=copy)

    def in_copy(self, one: Statement, number: _Number) -> Statement:
        """A statement whose tiles are those of a turn."""

        def operand(item: Operand) -> Operand:
            if item.tensor is not None:
                return item
            start, copy = self.copy_of(item.at.start, number)
            return replace(item, at=replace(item.at, start=start, copy=copy))

        if isinstance(one, Loop):
            return replace(one, body=tuple(self.in_copy(inner, number) for inner in one.body))
        if isinstance(one, Move):
            return self.move(one, number)
        if isinstance(one, Pick):
            return replace(one, target=operand(one.target))
        assert isinstance(one, Call)
        return replace(one, operands=tuple(operand(o) if isinstance(o, Operand) else o for o in one.operands))

    def copy_of(self, at: int, number: _Number) -> tuple[int, Copy | None]:
        """Where what was at `at` of the workspace is in a turn."""
        distance = next((bytes_ for place, bytes_ in self.distance.items() if at in place), None)
        if distance is None:
            return at, None
        if number.variables:
            return at, Copy(number.variables, number.start, distance)
        return at + number.start * distance, None


def _is_renewed(place: _Place, turns: Sequence[_Turn], written: Container[str]) -> bool:
    """Whether each turn that uses the place reads all that it uses of it."""
    for turn in turns:
        loads = [load for load in turn.loads if load.buffer in place]
        tiles = sorted((load.buffer, load.buffer + load.shape.size_bytes) for load in loads)
        if any(end > after for (_, end), (after, _) in pairwise(tiles)) or any(m.tensor in written for m in loads):
            return False
        for at, is_new in (use for use in _uses(turn.work) if use[0] in place):
            if is_new or not any(start <= at < end for start, end in tiles):
                return False
    return any(load.buffer in place for turn in turns for load in turn.loads)


def _is_read(one: Statement) -> TypeGuard[Move]:
    return isinstance(one, Move) and one.streamed and not one.to_tensor


def _leading_moves(body: Iterable[Statement]) -> Iterator[Move]:
    for one in body:
        if not isinstance(one, Move) or one.to_tensor:
            return
        yield one


def _steps(body: Iterable[Statement], is_load: Callable[[Statement], bool]) -> list[_Turn | _Loop]:
    """The turns of a body; what comes before the first load, or behind a loop, is one without loads."""
    steps: list[_Turn | _Loop] = []
    last = _Turn()
    for one in body:
        if isinstance(one, Loop) and any(map(is_load, without_loops(one.body))):
            assert one.first == 0
            steps += [last, _Loop(one.variable, one.end, _steps(one.body, is_load))]
            last = _Turn()
        elif isinstance(one, Move) and is_load(one):
            if not last.loads or len(last.work) > sum(1 for _ in _leading_moves(last.work)):
                steps.append(last)
                last = _Turn()
            last.loads.append(one)
        else:
            last.work.append(one)
    return [step for step in (*steps, last) if isinstance(step, _Loop) or step.loads or step.work]


def _uses(body: Iterable[Statement]) -> Iterator[tuple[int, bool]]:
    """(byte of the workspace, whether something else is put there) where tiles are used."""
    for one in without_loops(body):
        if isinstance(one, Move):
            yield one.buffer, not one.to_tensor
        elif isinstance(one, Pick) and one.target.tensor is None:
            yield one.target.at.start, True
        elif isinstance(one, Call):
            places = (item for item in one.operands if isinstance(item, Operand))
            yield from ((item.at.start, False) for item in places if item.tensor is None)


def _next_turn(move: Move, variable: str) -> Move:
    """The move of the loop's next turn."""
    return replace(move, at=replace(move.at, start=move.at.start + sum(s for v, s in move.at.steps if v == variable)))


def _first_turn(move: Move, variable: str) -> Move:
    """The move of a loop's first turn, before the loop."""
    return replace(move, at=replace(move.at, steps=tuple(step for step in move.at.steps if step[0] != variable)))


def _places(body: Iterable[Statement]) -> list[_Place]:
    moves = (one for one in without_loops(body) if isinstance(one, Move))
    found: list[_Place] = []
    for start, end in sorted((move.buffer, move.buffer + move.shape.size_bytes) for move in moves):
        if found and start < found[-1].end:
            found[-1] = _Place(found[-1].start, max(found[-1].end, end))
        else:
            found.append(_Place(start, end))
    return found
