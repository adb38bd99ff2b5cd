"""Double buffering: while kernels work on one tile, the storage device reads the next one into a second copy of it.

A *chain* is what stands in one body of a program: computations on tiles, single or as a loop, one after the other. The
tiles that they read lie alternately in the first and in the second copy, across the ends of loops, too. That is so of a
tile which every computation of the chain that uses its place reads anew; what stays for several is read as without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeGuard

from poet_codegen.tiling.program import (
    Call,
    Check,
    Copy,
    Loop,
    Move,
    Number,
    Operand,
    Pick,
    Program,
    Start,
    StartNext,
    Statement,
    Wait,
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
    written = {tensor for tensor, is_written in program.streams() if is_written}
    chains = _Chains(_places(program.body), written, program.workspace_bytes)
    body = chains.body(program.body)
    if not chains.distance:
        return None
    return Program(program.title + WORDS, chains.top, body)


@dataclass(frozen=True)
class _Place:
    """Bytes of the workspace that hold a tile, or several in turn."""

    start: int
    end: int


@dataclass(eq=False)
class _Step:
    """Of a chain: tiles are read, and used; again in each turn of the loop of `variable`."""

    loads: list[Move] = field(default_factory=list)
    work: list[Statement] = field(default_factory=list)
    variable: str | None = None
    turns: int = 1


@dataclass
class _Chains:
    """Rewrites the chains of a program."""

    places: Sequence[_Place]
    written: set[str]
    top: int
    distance: dict[_Place, int] = field(default_factory=dict)
    """Place -> how far behind the first copy the second one is."""

    def body(self, body: Iterable[Statement]) -> tuple[Statement, ...]:
        """A loop that is no step of a chain has chains of its own."""
        found: list[Statement] = []
        flat: list[Statement] = []
        for one in body:
            if isinstance(one, Loop) and _any_of(one, _is_read) and not _is_step(one):
                found += [*self.chain(flat), replace(one, body=self.body(one.body))]
                flat = []
            else:
                flat.append(one)
        return (*found, *self.chain(flat))

    def chain(self, flat: list[Statement]) -> list[Statement]:
        every = _steps(flat, _is_read)
        renewed = {place for place in self.places if self.is_renewed(place, every)}

        steps = _steps(flat, lambda one: _is_read(one) and self.place_of(one.buffer) in renewed)
        reading = [step for step in steps if step.loads]
        if sum(step.turns for step in reading) < 2 or any(len(step.loads) > MOST_STARTS for step in reading):
            return flat
        used = {self.place_of(load.buffer) for step in reading for load in step.loads}
        for place in self.places:
            if place in used and place not in self.distance:
                self.distance[place] = self.top - place.start
                self.top += place.end - place.start
        found: list[Statement] = []
        number = 0
        for step in steps:
            if not step.loads:
                found += step.work
                continue
            if number == 0:
                found += map(Start, self.first_loads(step, 0))
            left = reading[reading.index(step) + 1 :]
            following = self.first_loads(left[0], number + step.turns) if left else ()
            found += self.step(step, number, following)
            number += step.turns
        return found

    def step(self, step: _Step, number: int, following: tuple[Move, ...]) -> list[Statement]:
        """The step whose first turn is the chain's turn `number`; while it computes, `following` is read in the end."""
        loads = [self.move(load, step.variable, number) for load in step.loads]
        polled = sum(1 for _ in _leading_moves(step.work))
        work = [self.in_copy(one, step.variable, number) for one in step.work[polled:]]
        own = [*map(Check, loads), *work]
        if step.variable is None:
            return [Wait(), *step.work[:polled], *map(Start, following), *own]
        ahead = [self.move(_next_turn(load, step.variable), step.variable, number + 1) for load in step.loads]
        starts = StartNext(step.variable, step.turns - 1, tuple(ahead), following)
        return [Loop(step.variable, 0, step.turns, (Wait(), *step.work[:polled], starts, *own))]

    def first_loads(self, step: _Step, number: int) -> tuple[Move, ...]:
        return tuple(self.move(_first_turn(load, step.variable), None, number) for load in step.loads)

    def move(self, move: Move, variable: str | None, number: int) -> Move:
        buffer, copy = self.copy_of(move.buffer, variable, number)
        return replace(move, buffer=buffer, copy=copy)

    def in_copy(self, one: Statement, variable: str | None, number: int) -> Statement:
        """A statement whose tiles are those of a turn of the chain."""

        def operand(item: Operand) -> Operand:
            if item.tensor is not None:
                return item
            start, copy = self.copy_of(item.at.start, variable, number)
            return replace(item, at=replace(item.at, start=start, copy=copy))

        if isinstance(one, Loop):
            return replace(one, body=tuple(self.in_copy(inner, variable, number) for inner in one.body))
        if isinstance(one, Move):
            return self.move(one, variable, number)
        if isinstance(one, Pick):
            return replace(one, target=operand(one.target))
        assert isinstance(one, Call)
        return replace(one, operands=tuple(i if isinstance(i, Number) else operand(i) for i in one.operands))

    def copy_of(self, at: int, variable: str | None, number: int) -> tuple[int, Copy | None]:
        """Where what was at `at` of the workspace is in a turn of the chain, or from turn `number` on in a loop."""
        place = self.place_of(at)
        if place is None or place not in self.distance:
            return at, None
        if variable is None:
            return at + number % 2 * self.distance[place], None
        return at, Copy(variable, number % 2, self.distance[place])

    def place_of(self, at: int) -> _Place | None:
        return next((place for place in self.places if place.start <= at < place.end), None)

    def is_renewed(self, place: _Place, steps: Sequence[_Step]) -> bool:
        """Whether each step that uses the place reads all that it uses of it."""

        def is_here(at: int) -> bool:
            return place.start <= at < place.end

        is_read = False
        for step in steps:
            tiles = sorted((m.buffer, m.buffer + m.shape.size_bytes) for m in step.loads if is_here(m.buffer))
            is_read |= bool(tiles)
            if any(end > after for (_, end), (after, _) in pairwise(tiles)):
                return False
            if any(is_here(m.buffer) and m.tensor in self.written for m in step.loads):
                return False
            for at, is_new in (use for one in step.work for use in _uses(one) if is_here(use[0])):
                if is_new or not any(start <= at < end for start, end in tiles):
                    return False
        return is_read


def _is_read(one: Statement) -> TypeGuard[Move]:
    return isinstance(one, Move) and one.streamed and not one.to_tensor


def _any_of(one: Statement, holds: Callable[[Statement], bool]) -> bool:
    return any(_any_of(inner, holds) for inner in one.body) if isinstance(one, Loop) else holds(one)


def _leading_moves(body: Iterable[Statement]) -> Iterator[Move]:
    for one in body:
        if not isinstance(one, Move) or one.to_tensor:
            return
        yield one


def _is_step(loop: Loop) -> bool:
    """Whether a loop reads at the start of each turn, and nowhere else."""
    later = loop.body[sum(1 for _ in _leading_moves(loop.body)) :]
    return loop.first == 0 and not any(_any_of(one, _is_read) for one in later)


def _steps(flat: Iterable[Statement], is_load: Callable[[Statement], bool]) -> list[_Step]:
    """The steps of a chain; what comes before the first load, or behind a loop, is a step without loads."""
    steps = [_Step()]
    for one in flat:
        if isinstance(one, Loop) and _any_of(one, is_load):
            loads = [inner for inner in one.body if isinstance(inner, Move) and is_load(inner)]
            work = [inner for inner in one.body if not is_load(inner)]
            steps += [_Step(loads, work, one.variable, one.end), _Step()]
        elif isinstance(one, Move) and is_load(one):
            last = steps[-1]
            if not last.loads or len(last.work) > sum(1 for _ in _leading_moves(last.work)):
                last = _Step()
                steps.append(last)
            last.loads.append(one)
        else:
            steps[-1].work.append(one)
    return [step for step in steps if step.loads or step.work]


def _uses(one: Statement) -> Iterator[tuple[int, bool]]:
    """(byte of the workspace, whether something else is put there) where tiles are used."""
    if isinstance(one, Loop):
        for inner in one.body:
            yield from _uses(inner)
    elif isinstance(one, Move):
        yield one.buffer, not one.to_tensor
    elif isinstance(one, Pick) and one.target.tensor is None:
        yield one.target.at.start, True
    elif isinstance(one, Call):
        places = (item for item in one.operands if isinstance(item, Operand))
        yield from ((item.at.start, False) for item in places if item.tensor is None)


def _next_turn(move: Move, variable: str) -> Move:
    """The move of the loop's next turn."""
    return replace(move, at=replace(move.at, start=move.at.start + sum(s for v, s in move.at.steps if v == variable)))


def _first_turn(move: Move, variable: str | None) -> Move:
    """The move of a loop's first turn, before the loop."""
    return replace(move, at=replace(move.at, steps=tuple(step for step in move.at.steps if step[0] != variable)))


def _places(body: Iterable[Statement]) -> list[_Place]:
    found: list[_Place] = []
    for start, end in sorted(_spans(body)):
        if found and start < found[-1].end:
            found[-1] = _Place(found[-1].start, max(found[-1].end, end))
        else:
            found.append(_Place(start, end))
    return found


def _spans(body: Iterable[Statement]) -> Iterator[tuple[int, int]]:
    for one in body:
        if isinstance(one, Loop):
            yield from _spans(one.body)
        elif isinstance(one, Move):
            yield one.buffer, one.buffer + one.shape.size_bytes
