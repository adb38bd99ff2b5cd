"""A schedule as the lines of poet_step() or poet_infer()."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from poet_solver.schedule import Compute, Free, Home, PageIn, PageOut, Schedule

from poet_codegen.emit.layout import Constant, PassLayout
from poet_codegen.emit.nests import Names, Nests, Places
from poet_codegen.emit.tiles import tiled_block
from poet_codegen.emit.wrap import wrap_call
from poet_codegen.forms import Form, in_form
from poet_codegen.graph import Graph, Role
from poet_codegen.lower import Lowered
from poet_codegen.ops import registry
from poet_codegen.ops.registry import WORKSPACE, Kernel, Work
from poet_codegen.tiling.program import Program


@dataclass(frozen=True)
class EmittedStep:
    """One marked step: a computation or a page transfer."""

    index: int
    """Argument of poet_mark()."""
    do: str
    """compute, page_in or page_out."""
    title: str
    """ONNX node or tensor, unescaped."""
    op: str
    recompute: bool
    statement: str
    """C statement, wrapped to the generated code's width."""
    size_bytes: int
    """Bytes moved by a page step; bytes of the outputs of a computation."""
    work: Work | None
    """How much a computation computes; None for a page."""
    energy_j: float
    time_s: float
    kernels: tuple[Kernel, ...] = ()
    """What a computation calls; in tiles, again and again."""
    is_loss: bool = False
    """The first computation of the loss, which the code looks at."""
    is_update: bool = False
    """Left out when the loss is not finite."""
    keep: tuple[str, ...] = ()
    """Of an update that is left out and would have written to storage: what to do instead."""
    program: Program | None = None
    """Of a computation of several calls: how it is cut."""

    @property
    def comment(self) -> str:
        """The step in words."""
        if self.do != "compute":
            return f"{self.do.replace('_', ' ')} {self.title}"
        tiles = f", {self.program.title}" if self.program and self.program.title else ""
        return f"{'recompute ' if self.recompute else ''}{self.title} ({self.op}){tiles}"


_INDENT = 4


def kernels_of(graph: Graph, lowered: Lowered, op: int, mode: int) -> tuple[Kernel, ...]:
    """The kernels that an op of the problem calls in a mode; of a name there is one form, in tiles too."""
    program, node = lowered.programs.get((op, mode)), lowered.nodes[op]
    kernels = program.kernels if program else (registry.get(node.op).variants(graph, node)[mode].kernel,)
    return tuple(in_form(kernel, lowered.forms.get(kernel.name, Form.FAST)) for kernel in kernels)


def emit_steps(
    graph: Graph,
    lowered: Lowered,
    schedule: Schedule,
    layout: PassLayout,
    pages: Mapping[str, Constant],
    first_index: int,
    nests: Nests | None = None,
) -> tuple[EmittedStep, ...]:
    """Turn a schedule into marked steps, numbered from `first_index`. Frees and homes leave no trace in C.

    `nests` takes the loops that steps in tiles share; None: each has its own.
    """
    problem = lowered.problem
    root_names = {position: name for name, position in lowered.index.items()}
    offsets = {lowered.index[name]: offset for name, offset in lowered.ram_homes(schedule).items()}
    done: set[int] = set()
    loss_is_known = False
    out: list[EmittedStep] = []
    for step in schedule.steps:
        index = first_index + len(out)
        if isinstance(step, Home):
            continue
        if isinstance(step, Free):
            offsets.pop(step.tensor, None)
        elif isinstance(step, Compute):
            op, node = problem.ops[step.op], lowered.nodes[step.op]
            mode = op.modes[step.mode]
            for v, offset in zip(op.outputs, step.offsets, strict=True):
                if offset is not None:
                    offsets[v] = offset
            size = sum(problem.tensors[v].size_bytes for v in op.outputs)
            again = step.op in done
            is_update = any(graph.tensors[name].updates is not None for name in node.outputs)
            if is_update:
                _check_can_be_left_out(graph, lowered, step, loss_is_known)
            column = 2 * _INDENT if is_update else _INDENT
            program = lowered.programs.get((step.op, step.mode))
            kernels = kernels_of(graph, lowered, step.op, step.mode)
            if program is None:
                (kernel,) = kernels
                arguments = []
                for name in kernel.arguments:
                    if name == WORKSPACE:
                        assert step.workspace_offset is not None
                        arguments.append(f"ARENA({layout.workspace(step.workspace_offset, mode.workspace_bytes)})")
                    else:
                        arguments.append(layout.argument(name, offsets))
                statement = wrap_call(kernel.name, arguments, column, ";")
            else:
                workspace = ""
                if step.workspace_offset is not None:
                    workspace = layout.workspace(step.workspace_offset, mode.workspace_bytes)
                names = Names(layout, lowered, pages, offsets, workspace)
                statement = tiled_block(program, graph, names, column)
                if nests is not None:
                    places = Places(names)
                    text = tiled_block(program, graph, places, _INDENT)
                    statement = nests.call(program.title, text, places.row) or statement
            for old, _ in mode.in_place:
                offsets.pop(old, None)
            keep = _keep(graph, lowered, step, pages) if is_update else ()
            is_loss = node.role is Role.LOSS and not loss_is_known
            loss_is_known |= is_loss
            out.append(
                EmittedStep(
                    index,
                    "compute",
                    node.label,
                    node.op,
                    again,
                    statement,
                    size,
                    registry.get(node.op).work(graph, node),
                    mode.energy_j,
                    mode.time_s,
                    kernels,
                    is_loss,
                    is_update,
                    keep,
                    program,
                )
            )
            done.add(step.op)
        else:
            tensor = problem.tensors[step.tensor]
            if isinstance(step, PageIn):
                offsets[step.tensor] = step.offset
            name = root_names[step.tensor]
            do = "page_in" if isinstance(step, PageIn) else "page_out"
            cost = tensor.page_in if isinstance(step, PageIn) else tensor.page_out
            assert cost is not None and isinstance(step, PageIn | PageOut)
            place = layout.arena(step.tensor, offsets[step.tensor])
            arguments = [pages[name].name, place, f"{tensor.size_bytes}u"]
            statement = wrap_call(f"POET_TRY(poet_{do}", arguments, _INDENT, ");")
            out.append(
                EmittedStep(index, do, name, do, False, statement, tensor.size_bytes, None, cost.energy_j, cost.time_s)
            )
    return tuple(out)


def _keep(graph: Graph, lowered: Lowered, step: Compute, pages: Mapping[str, Constant]) -> tuple[str, ...]:
    """Statements that make the old pages of an update's outputs the new ones; a gradient's page becomes zeros."""
    mode = lowered.problem.ops[step.op].modes[step.mode]
    found = []
    for name in lowered.nodes[step.op].outputs:
        old, size = graph.tensors[name].updates, f"{graph.tensors[name].size_bytes}u"
        if lowered.index.get(lowered.root[name]) not in mode.outputs_to_storage:
            continue
        do, of = ("keep", [pages[old].name]) if old is not None else ("zero", [])
        arguments = [*of, pages[lowered.root[name]].name, size]
        found.append(wrap_call(f"POET_TRY(poet_page_{do}", arguments, 2 * _INDENT, ");"))
    return tuple(found)


def _check_can_be_left_out(graph: Graph, lowered: Lowered, step: Compute, loss_is_known: bool) -> None:
    """A step whose loss is NaN ends with all parameters as they were: that is so if updates come after the loss, and
    write where the old version is, in RAM or on storage."""
    node, mode = lowered.nodes[step.op], lowered.problem.ops[step.op].modes[step.mode]
    if not loss_is_known:
        raise AssertionError(f"{node.label}: {node.op} updates a parameter before the loss is known")
    for name in node.outputs:
        old = graph.tensors[name].updates
        if old is None:
            continue
        pair = lowered.index[old], lowered.index[name]
        is_streamed = pair[0] in mode.streamed and pair[1] in mode.outputs_to_storage
        if pair not in mode.in_place and not is_streamed:
            raise AssertionError(f"{node.label}: {node.op} does not update {old} in place")
