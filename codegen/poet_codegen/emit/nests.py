"""Loop nests that steps share: steps in tiles that are alike but for where their tensors lie are one function, with a
table of their places, where a statement for each would outgrow the board's flash.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from poet_solver.schedule import Compute, PageIn, PageOut, Schedule

from poet_codegen.board import Board
from poet_codegen.code_budget import FIRMWARE_BYTES
from poet_codegen.emit.initial import on_storage
from poet_codegen.emit.layout import Constant, PassLayout
from poet_codegen.emit.wrap import WIDTH
from poet_codegen.graph import Graph, Kind
from poet_codegen.lower import Lowered

_TILED_BYTES, _OTHER_BYTES = 250, 25
"""Of a step of its own, in tiles or not: means over ResNet-18 and BERT-base."""
_STEPS_SHARE = 0.5
"""Of the flash that firmware and weights leave, for steps; the rest is for kernels."""
_INDENT = 4
_IN_ARENA = re.compile(r"ARENA\((\w+)\)")


@dataclass(frozen=True)
class StepsCode:
    """What the steps of training and inference take of flash, about."""

    tiled: int
    """Steps in tiles."""
    unrolled_bytes: int
    """Every step by itself."""
    room_bytes: int
    """What there is for steps."""

    @property
    def is_shared(self) -> bool:
        """Whether steps that are alike share their loops."""
        return self.unrolled_bytes > self.room_bytes


def steps_code(board: Board, graph: Graph, passes: Sequence[tuple[Lowered, Schedule]]) -> StepsCode:
    """`graph` is training's, `passes` are training and inference."""
    steps = [
        isinstance(step, Compute) and (step.op, step.mode) in lowered.programs
        for lowered, schedule in passes
        for step in schedule.steps
        if isinstance(step, Compute | PageIn | PageOut)
    ]
    tiled = sum(steps)
    train, _ = passes[0]
    elsewhere = on_storage(board, graph, train) | train.frozen
    in_flash = (p for p in graph.params() if p.kind is not Kind.STATE and p.name not in elsewhere)
    left = board.flash.size_bytes - FIRMWARE_BYTES - sum(param.size_bytes for param in in_flash)
    return StepsCode(
        tiled, tiled * _TILED_BYTES + (len(steps) - tiled) * _OTHER_BYTES, max(0, int(_STEPS_SHARE * left))
    )


@dataclass(frozen=True)
class Names:
    """How a step's C names what it uses: by itself."""

    layout: PassLayout
    lowered: Lowered
    pages: Mapping[str, Constant]
    offsets: Mapping[int, int]
    """Where each tensor of the problem is right now."""
    offset_of_tiles: str
    """Name of the workspace's offset."""

    def stream(self, tensor: str, is_written: bool) -> str:
        """A variable."""
        return f"{self.layout.c_name(tensor)}_{'out' if is_written else 'in'}"

    def page(self, tensor: str) -> str:
        """The address of a tensor's page."""
        return self.pages[self.lowered.root[tensor]].name

    def argument(self, tensor: str) -> str:
        """A pointer to a tensor in RAM or flash."""
        return self.layout.argument(tensor, self.offsets)

    def workspace(self) -> str:
        """The offset of the tiles."""
        return self.offset_of_tiles


class Places:
    """The same in a nest, where places are the entries of the step's row, `at`."""

    def __init__(self, own: Names) -> None:
        self._own = own
        self._streams: dict[tuple[str, bool], str] = {}
        self._entries: dict[tuple[str, str], int] = {}
        self.row: list[str] = []
        """What this step has in its row."""

    def stream(self, tensor: str, is_written: bool) -> str:
        """A variable."""
        name = f"{'out' if is_written else 'in'}{len(self._streams)}"
        return self._streams.setdefault((tensor, is_written), name)

    def page(self, tensor: str) -> str:
        """The address of a tensor's page."""
        return self._entry("page", tensor, self._own.page(tensor))

    def argument(self, tensor: str) -> str:
        """A pointer to a tensor in the arena, or by name to what is outside."""
        text = self._own.argument(tensor)
        offset = _IN_ARENA.fullmatch(text)
        return f"ARENA({self._entry('arena', tensor, offset[1])})" if offset else text

    def workspace(self) -> str:
        """The offset of the tiles."""
        return self._entry("workspace", "", self._own.workspace())

    def _entry(self, kind: str, tensor: str, place: str) -> str:
        """Tensors have entries of their own even where they lie at one place, for in another step they may not."""
        position = self._entries.setdefault((kind, tensor), len(self.row))
        if position == len(self.row):
            self.row.append(place)
        return f"at[{position}]"


@dataclass
class Nest:
    """A function that several steps call."""

    name: str
    title: str
    """Of its first step."""
    text: str
    """Its statements."""
    rows: list[tuple[str, ...]] = field(default_factory=list)
    """The places of each step."""

    @property
    def table(self) -> str:
        """The rows as C, indented."""
        pad = 2 * _INDENT * " "
        lines = (textwrap.wrap(f"{{{', '.join(row)}}},", WIDTH - len(pad)) for row in self.rows)
        return "\n".join(f"{pad}{line}" for row in lines for line in row)


class Nests:
    """Collects nests: what was written once is known, and what is written again becomes one."""

    def __init__(self, known: Sequence[str] = ()) -> None:
        """`known` are the texts of all steps, as an earlier collection saw them."""
        self.seen: list[str] = []
        self._shared = {text for text, times in Counter(known).items() if times > 1}
        self._found: dict[str, Nest] = {}

    @property
    def nests(self) -> tuple[Nest, ...]:
        """In the order of their first steps."""
        return tuple(self._found.values())

    def call(self, title: str, text: str, row: Sequence[str]) -> str | None:
        """The statement of a step with these places; None where it shares its loops with no other."""
        self.seen.append(text)
        if text not in self._shared:
            return None
        nest = self._found.setdefault(text, Nest(f"poet_nest_{len(self._found)}", title, text))
        if tuple(row) not in nest.rows:
            nest.rows.append(tuple(row))
        return f"POET_TRY({nest.name}({nest.rows.index(tuple(row))}u));"
