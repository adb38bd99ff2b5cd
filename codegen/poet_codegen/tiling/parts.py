"""Programs of ops that are run a part at a time (ops/split.py): one loop, contiguous tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from poet_codegen.graph import Graph, Node
from poet_codegen.ops import registry
from poet_codegen.ops.registry import Kernel, Work
from poet_codegen.ops.split import CONTINUES, Split, part_of
from poet_codegen.tiling.program import FLOAT_BYTES, Call, Index, Loop, Move, Operand, Program, Shape, Statement

CallOf = Callable[[Graph, Node], tuple[Kernel, Work]]
"""The kernel of a part, and what it does."""


def kernel_of(graph: Graph, node: Node) -> tuple[Kernel, Work]:
    """The kernel of a part as it is called."""
    rule = registry.get(node.op)
    return rule.kernel(graph, node), rule.work(graph, node)


@dataclass(frozen=True)
class Streams:
    """Which of a node's tensors are on storage while it runs. An updated tensor has the name of its new version."""

    inputs: frozenset[str]
    outputs: frozenset[str]
    old_version: Mapping[str, str]
    """New version -> the old one, which is read from storage where the new one is written there."""


def part_program(graph: Graph, node: Node, split: Split, units: int, streams: Streams, call_of: CallOf) -> Program:
    """The node in split.count / units parts; `call_of` gives the kernels."""
    variable = "i"
    tiles = split.count // units
    buffers: dict[str, int] = {}
    top = 0
    for name in dict.fromkeys((*node.inputs, *node.outputs)):
        if name in streams.inputs or name in streams.outputs:
            buffers[name] = top
            top += units * split.elements[name] * FLOAT_BYTES

    def at(name: str, tile: int | None) -> Index:
        bytes_each = units * split.elements.get(name, 0) * FLOAT_BYTES
        if tile is not None:
            return Index(tile * bytes_each)
        return Index(0, ((variable, bytes_each),) if bytes_each else ())

    def move(name: str, tensor: str, tile: int | None, to_tensor: bool) -> Move:
        shape = Shape(units * split.elements[name] * FLOAT_BYTES)
        return Move(tensor, at(name, tile), shape, buffers[name], to_tensor, True)

    def body(tile: int | None, continues: bool) -> tuple[Statement, ...]:
        steps: list[Statement] = [move(name, name, tile, False) for name in buffers if name in streams.inputs]
        steps += [move(name, streams.old_version[name], tile, False) for name in buffers if name in streams.old_version]
        part = split.part(units)
        if continues:
            part = replace(part, attrs={**part.attrs, CONTINUES: 1})
        small_graph, small = part_of(graph, node, part)
        kernel, work = call_of(small_graph, small)
        operands = tuple(
            Operand(None, Index(buffers[name])) if name in buffers else Operand(name, at(name, tile))
            for name in kernel.arguments
        )
        steps.append(Call(kernel, work, operands))
        steps += [move(name, name, tile, True) for name in buffers if name in streams.outputs]
        return tuple(steps)

    if split.adds_up:
        statements = (*body(0, False), Loop(variable, 1, tiles, body(None, True)))
    else:
        statements = (Loop(variable, 0, tiles, body(None, False)),)
    title = f"{tiles} tiles of {units} {split.unit}{'s' if units > 1 else ''}"
    return Program(title, top, statements)
