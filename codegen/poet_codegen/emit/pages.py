"""Where pages lie on storage: a slot for each, and the ring that their window moves round (firmware's page.h).

A device that is erased wears out, so that the window of all slots moves down by a stride each training step, one unit
mostly. Old and new page of a parameter at home on storage are then a stride apart: in the order in which training
writes them, each new page lies where its own old one and the end of those before were, which are dead by then. An op
that streams old parameters in and new ones out needs both at once, so that the stride is not less than what it writes.

Where nothing is erased, parameters have two places each, all second ones a swap behind all first ones, at the window's
end: what a checkpoint holds is not written over, so that it needs no copy.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, groupby

from poet_solver.problem import Place
from poet_solver.schedule import Compute, PageIn, PageOut, Schedule

from poet_codegen.board import PAGE_HEADER_BYTES, Board
from poet_codegen.errors import BoardError
from poet_codegen.frozen import row_tables
from poet_codegen.graph import Graph
from poet_codegen.lower import Home, Lowered
from poet_codegen.tiling.program import ROW_CRC_BYTES

CHECKPOINT_HEADER_BYTES = 52
"""POET_CHECKPOINT_HEADER_BYTES of firmware/include/poet/checkpoint.h; tests compare the two."""
CHECKPOINT_SLOTS = 2
"""POET_CHECKPOINT_SLOTS of the same file."""
_PLAIN_UNIT_BYTES = 512
"""Of storage that is not erased: an SD card's block."""


@dataclass(frozen=True)
class Pages:
    """Slots in units, of the window of training and inference."""

    unit_bytes: int
    units: int
    """Of the ring that the window moves round; 0: there is no page."""
    window_units: int
    stride: int
    """Units that the window moves each training step."""
    swap: int
    """Where nothing is erased: units from the first place of the parameters' pages to the second; 0: they have one."""
    homes: Mapping[str, int]
    """Parameter or state at home on storage -> first unit of its page."""
    scratch: Mapping[str, int]
    """Other root tensor that is paged, or input on storage -> first unit of its page."""
    frozen: Mapping[str, int]
    """Parameter that never changes -> first unit of its page, behind the checkpoints."""

    @property
    def storage_bytes(self) -> int:
        """What the ring takes, from address 0 on."""
        return self.units * self.unit_bytes

    @property
    def frozen_at(self) -> int:
        """Where the pages of parameters begin that never change; 0 where there are none."""
        return self.address(min(self.frozen.values())) if self.frozen else 0

    @property
    def clean_bytes(self) -> int:
        """Of the bits that tell which units are erased."""
        return _units(self.window_units + self.stride, 8)

    @property
    def homes_unit(self) -> int:
        """Where the parameters' pages begin that have two places."""
        return self.window_units - 2 * self.swap

    def address(self, unit: int) -> int:
        """Of a unit of the window."""
        return unit * self.unit_bytes

    def unit_of(self, lowered: Lowered, name: str, trains: bool) -> int:
        """First unit of the page of a root tensor; `trains`: while poet_step() runs."""
        owner = _home_of(lowered, name)
        if owner is None:
            return self.scratch[name]
        is_old = owner == name and trains
        return self.homes[owner] + (self.stride + self.swap if is_old else 0)


def place_pages(board: Board, graph: Graph, passes: Sequence[tuple[Lowered, Schedule]]) -> Pages:
    """Give every page a slot. `passes` are those of training and inference; `graph` is training's.

    Pages share slots by live range where the device has not room for all side by side (side by side, all erases can be
    done between the steps). Raises BoardError when it has not room even so.
    """
    storage = board.storage
    unit_bytes = _PLAIN_UNIT_BYTES if storage.erase is None else storage.erase.block_bytes
    frozen = frozen_units(graph, passes[0][0].frozen, unit_bytes)
    there = storage.size_bytes // unit_bytes - sum(frozen.values())
    homes, top = _place_homes(graph, *passes[0], unit_bytes)
    ranges = _live_ranges(passes, unit_bytes)
    if storage.erase is None:
        in_ram = {name for name, home in passes[0][0].home.items() if home is Home.RAM}
        pages = _plain(_place_inputs(passes[0][0]), homes, top, ranges, there, checkpoint_bytes(graph, in_ram))
    else:
        stride = _stride(*passes[0], unit_bytes)
        checkpoint = checkpoint_bytes(graph, passes[0][0].home)
        checkpoints = CHECKPOINT_SLOTS * _units(checkpoint, unit_bytes)
        scratch, window = _scratch(ranges, top + (stride if homes else 0), there - checkpoints)
        # Where checkpoints do not fit beside the pages, they are left out: the device says so when asked for one.
        ring = ring_units(board, checkpoint, sum(frozen.values()))
        units = ring if window <= ring else there - checkpoints if window + checkpoints <= there else there
        pages = Pages(unit_bytes, units if window else 0, window, stride, 0, homes, scratch, {})
    copied = [name for name, home in passes[0][0].home.items() if home is Home.RAM or not pages.swap]
    end = pages.units + CHECKPOINT_SLOTS * _units(checkpoint_bytes(graph, copied), unit_bytes)
    if frozen and end > there:
        raise BoardError(
            f"{storage.models} of {board.name} has {storage.size_bytes} bytes, which are too few for frozen parameters "
            f"({sum(frozen.values()) * unit_bytes} bytes), pages and checkpoints ({end * unit_bytes}). Plan with more "
            "RAM (--ram), with fewer parameters that train (--train), or for a larger device."
        )
    first = {name: end + before for name, before in zip(frozen, accumulate(frozen.values(), initial=0), strict=False)}
    pages = replace(pages, frozen=first)
    if pages.window_units > there:
        raise BoardError(
            f"Pages of this schedule take {pages.window_units * unit_bytes} bytes of storage, "
            f"{top * unit_bytes} of them for parameters, and {storage.models} of {board.name} has "
            f"{storage.size_bytes}. Plan with more RAM (--ram), with --params ram, with fewer parameters that train "
            "(--train), or for a larger device."
        )
    _check(pages, passes)
    return pages


def check_room(board: Board, graph: Graph, at_home: Container[str]) -> None:
    """Raise BoardError where storage is too small for the parameters and states `at_home` there, for any schedule."""
    storage = board.storage
    unit_bytes = _PLAIN_UNIT_BYTES if storage.erase is None else storage.erase.block_bytes
    sizes = [PAGE_HEADER_BYTES + p.size_bytes for p in graph.params() if p.name in at_home]
    needed = sum(_units(size, unit_bytes) for size in sizes) * unit_bytes
    if needed > storage.size_bytes:
        raise BoardError(
            f"The {len(sizes)} parameters and states that train take {needed} bytes of storage, and {storage.models} "
            f"of {board.name} has {storage.size_bytes}. Train fewer (--train), take an optimizer with less state, or a "
            "larger device (--storage, or size_bytes in the board file)."
        )


def _plain(
    inputs: tuple[dict[str, int], int],
    homes: Mapping[str, int],
    top: int,
    ranges: Sequence[_Range],
    there: int,
    checkpoint_bytes: int,
) -> Pages:
    """On storage that is not erased: inputs, what passes page, and parameters, which are there twice where there is
    room for that and for checkpoints."""
    least = CHECKPOINT_SLOTS * _units(checkpoint_bytes, _PLAIN_UNIT_BYTES)
    swap = top if _shared(ranges, inputs[1])[1] + 2 * top + least <= there else 0
    scratch, first = _scratch(ranges, inputs[1], there - swap - top - least)
    window = first + top + swap
    moved = {name: first + unit for name, unit in homes.items()}
    return Pages(_PLAIN_UNIT_BYTES, window, window, 0, swap, moved, inputs[0] | scratch, {})


def frozen_units(graph: Graph, frozen: frozenset[str], unit_bytes: int) -> dict[str, int]:
    """Units that each page of a frozen parameter takes, with the checksums of rows behind it."""
    tables = row_tables(graph, frozen)
    found = {}
    for param in graph.params():
        if param.name in frozen:
            rows = param.shape[0] if param.name in tables else 0
            found[param.name] = _units(PAGE_HEADER_BYTES + param.size_bytes + rows * ROW_CRC_BYTES, unit_bytes)
    return found


def _scratch(ranges: Sequence[_Range], first: int, end: int) -> tuple[dict[str, int], int]:
    """Slots from `first` on, side by side if they end before `end`; and where they do."""
    roomy = _side_by_side(ranges, first)
    return roomy if roomy[1] <= end else _shared(ranges, first)


def ring_units(board: Board, checkpoint_bytes: int, taken: int = 0) -> int:
    """Units of the ring on storage that is erased, checkpoints of so many bytes beside it; 0 where there is no room.

    `taken` units are not to be had.

    A prime, so that a window with any stride comes to all places.
    """
    storage = board.storage
    if storage.erase is None:
        return 0
    unit_bytes = storage.erase.block_bytes
    room = storage.size_bytes // unit_bytes - taken - CHECKPOINT_SLOTS * _units(checkpoint_bytes, unit_bytes)
    return next((n for n in range(room, 1, -1) if all(n % d for d in range(2, math.isqrt(n) + 1))), max(room, 0))


def checkpoint_bytes(graph: Graph, learned: Container[str]) -> int:
    """Size of a checkpoint that copies these parameters and states: what training changes."""
    return CHECKPOINT_HEADER_BYTES + sum(p.size_bytes for p in graph.params() if p.name in learned)


def _units(size_bytes: int, unit_bytes: int) -> int:
    return -(-size_bytes // unit_bytes)


def _page_units(lowered: Lowered, name: str, unit_bytes: int) -> int:
    size_bytes = lowered.problem.tensors[lowered.index[name]].size_bytes
    return _units(PAGE_HEADER_BYTES + size_bytes, unit_bytes)


def _home_of(lowered: Lowered, name: str) -> str | None:
    """The parameter at home on storage whose page a root tensor has; None where its page is no parameter's."""
    tensor = lowered.problem.tensors[lowered.index[name]]
    if tensor.start is Place.STORAGE:
        return name if name in lowered.home else None
    if tensor.home_of is None:
        return None
    return next(owner for owner, position in lowered.index.items() if position == tensor.home_of)


@dataclass(frozen=True)
class Use:
    """The page of a root tensor is read or written in a step of the schedule."""

    name: str
    writes: bool
    step: int


def page_uses(lowered: Lowered, schedule: Schedule) -> Iterator[Use]:
    """Every use of a page in a pass that is ever written. An op that streams has several, all at once."""
    names = {position: name for name, position in lowered.index.items()}
    fixed = {lowered.index[name] for name in lowered.frozen}
    for at, step in enumerate(schedule.steps):
        if isinstance(step, PageIn | PageOut):
            if step.tensor in fixed:
                continue
            yield Use(names[step.tensor], isinstance(step, PageOut), at)
        elif isinstance(step, Compute):
            mode = lowered.problem.ops[step.op].modes[step.mode]
            yield from (Use(names[v], False, at) for v in mode.streamed if v not in fixed)
            yield from (Use(names[v], True, at) for v in mode.outputs_to_storage)


def _stride(lowered: Lowered, schedule: Schedule, unit_bytes: int) -> int:
    """Units that the window must move in a step: of the parameters that one op streams out, at least one."""
    written: dict[int, int] = {}
    for use in page_uses(lowered, schedule):
        owner = _home_of(lowered, use.name)
        if use.writes and owner is not None and isinstance(schedule.steps[use.step], Compute):
            written[use.step] = written.get(use.step, 0) + _page_units(lowered, owner, unit_bytes)
    return max(written.values(), default=1)


def _place_homes(graph: Graph, lowered: Lowered, schedule: Schedule, unit_bytes: int) -> tuple[dict[str, int], int]:
    """First unit of each parameter's page, in the order in which training writes them, and where they end."""
    homes: dict[str, int] = {}
    top = 0
    for use in page_uses(lowered, schedule):
        owner = _home_of(lowered, use.name)
        if owner is not None and use.writes and owner not in homes:
            homes[owner] = top
            top += _page_units(lowered, owner, unit_bytes)
    left = [p.name for p in graph.params() if lowered.home.get(p.name) is Home.STORAGE and p.name not in homes]
    if left:
        raise AssertionError(f"training does not write {left[0]}, whose home is storage")
    return homes, top


@dataclass(frozen=True)
class _Range:
    """A page that lives within passes only: its units, and first write and last use in each pass."""

    name: str
    units: int
    uses: tuple[tuple[int, int] | None, ...]

    def meets(self, other: _Range) -> bool:
        """Whether both hold something at once."""
        pairs = zip(self.uses, other.uses, strict=True)
        return any(a is not None and b is not None and a[0] <= b[1] and b[0] <= a[1] for a, b in pairs)


def _live_ranges(passes: Sequence[tuple[Lowered, Schedule]], unit_bytes: int) -> list[_Range]:
    uses: dict[str, list[tuple[int, int] | None]] = {}
    units: dict[str, int] = {}
    for number, (lowered, schedule) in enumerate(passes):
        for use in page_uses(lowered, schedule):
            if _home_of(lowered, use.name) is not None or _is_input(lowered, use.name):
                continue
            units[use.name] = _page_units(lowered, use.name, unit_bytes)
            row = uses.setdefault(use.name, [None] * len(passes))
            known = row[number]
            row[number] = (use.step, use.step) if known is None else (known[0], use.step)
    return [_Range(name, units[name], tuple(row)) for name, row in uses.items()]


def _is_input(lowered: Lowered, name: str) -> bool:
    """Whether the host writes this page before a pass."""
    tensor = lowered.problem.tensors[lowered.index[name]]
    return tensor.start is Place.STORAGE and name not in lowered.home and name not in lowered.frozen


def _place_inputs(lowered: Lowered) -> tuple[dict[str, int], int]:
    """First unit of each input's page, and where they end."""
    slots: dict[str, int] = {}
    top = 0
    for name in lowered.index:
        if _is_input(lowered, name):
            slots[name] = top
            top += _page_units(lowered, name, _PLAIN_UNIT_BYTES)
    return slots, top


def _side_by_side(ranges: Sequence[_Range], first: int) -> tuple[dict[str, int], int]:
    slots: dict[str, int] = {}
    for page in ranges:
        slots[page.name] = first
        first += page.units
    return slots, first


def _shared(ranges: Sequence[_Range], first: int) -> tuple[dict[str, int], int]:
    """Largest first, each at the lowest place where nothing lies that lives at the same time."""
    slots: dict[str, int] = {}
    placed: list[_Range] = []
    end = first
    for page in sorted(ranges, key=lambda page: -page.units):
        at = first
        for other in sorted((o for o in placed if o.meets(page)), key=lambda o: slots[o.name]):
            if slots[other.name] >= at + page.units:
                break
            at = max(at, slots[other.name] + other.units)
        slots[page.name] = at
        placed.append(page)
        end = max(end, at + page.units)
    return slots, end


def checked_params(lowered: Lowered, schedule: Schedule) -> frozenset[str]:
    """Parameters at home on storage of which a training step reads the whole page before it writes any parameter's.

    So a page of a checkpoint that went bad is found while the checkpoint before it is still there.
    """
    uses = [(use, _home_of(lowered, use.name)) for use in page_uses(lowered, schedule)]
    first = min((use.step for use, owner in uses if use.writes and owner is not None), default=0)
    return frozenset(owner for use, owner in uses if owner is not None and not use.writes and use.step < first)


def _check(pages: Pages, passes: Sequence[tuple[Lowered, Schedule]]) -> None:
    """Walk three steps of training, an inference after each, on a map of the storage: every page-in must find what its
    page-out wrote. Replay cannot see addresses on storage, and pages that overlap would swap tensors silently."""
    for commits in (True, False) if pages.swap else (False,):
        _walk(pages, passes, commits)


def _walk(pages: Pages, passes: Sequence[tuple[Lowered, Schedule]], commits: bool) -> None:
    """`commits`: a checkpoint after each step, so that parameters change places."""
    ring: dict[int, tuple[str, int]] = {}
    train = passes[0][0]

    def place(turn: int, unit: int, count: int) -> list[int]:
        if not pages.swap or unit < pages.homes_unit:
            return [(unit + i - turn * pages.stride) % pages.units for i in range(count)]
        is_old = unit >= pages.homes_unit + pages.swap
        side = (turn - is_old) % 2 if commits else 0
        first = unit + (side - is_old) * pages.swap
        return list(range(first, first + count))

    def find(name: str, spot: list[int], content: tuple[str, int]) -> None:
        if any(ring.get(at) != content for at in spot):
            raise AssertionError(f"the page of {name} is not where it was written")

    for name, unit in pages.homes.items():
        for at in place(0, unit, _page_units(train, name, pages.unit_bytes)):
            ring[at] = (name, 0)
    for turn in range(1, 4):
        for name in filter(partial(_is_input, train), train.index):
            unit = pages.unit_of(train, name, True)
            ring |= dict.fromkeys(place(turn, unit, _page_units(train, name, pages.unit_bytes)), (name, turn))
        for trains, (lowered, schedule) in zip((True, False), passes, strict=True):
            for _, uses in groupby(page_uses(lowered, schedule), key=lambda use: use.step):
                reads: list[tuple[str, list[int], tuple[str, int]]] = []
                written: set[str] = set()
                for use in uses:
                    owner = _home_of(lowered, use.name)
                    is_old = trains and owner == use.name
                    content = (owner or use.name, turn - 1 if is_old else turn)
                    count = _page_units(lowered, use.name, pages.unit_bytes)
                    spot = place(turn, pages.unit_of(lowered, use.name, trains), count)
                    if len(set(spot)) < count or max(spot) >= pages.units:
                        raise AssertionError(f"the page of {use.name} is longer than the ring")
                    if not use.writes:
                        reads.append((use.name, spot, content))
                        find(use.name, spot, content)
                        continue
                    ring |= dict.fromkeys(spot, content)
                    written.add(content[0])
                    # What an op streams in must still be there; only where nothing is erased it may write in place.
                    for name, read, old in reads:
                        if pages.stride or commits or old[0] not in written:
                            find(name, read, old)
        for name, unit in pages.homes.items():
            find(name, place(turn, unit, _page_units(train, name, pages.unit_bytes)), (name, turn))
        if commits:
            for name, unit in pages.homes.items():
                find(name, place(turn - 1, unit, _page_units(train, name, pages.unit_bytes)), (name, turn - 1))
