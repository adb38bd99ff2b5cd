"""Runs programs of tiled ops step by step, on bytes of this machine."""

from __future__ import annotations

import ctypes

from poet_codegen.graph import Graph, Node
from poet_codegen.tiling.ahead import MOST_STARTS
from poet_codegen.tiling.parts import Streams
from poet_codegen.tiling.program import (
    Call,
    Check,
    Copy,
    Index,
    Loop,
    Move,
    Number,
    Pick,
    Program,
    Start,
    StartNext,
    Statement,
    Wait,
)

from .host_kernels import HostKernels


class Machine:
    """Runs a program on bytes: storage, RAM and workspace; storage is read and written in whole passes.

    What is started comes when the device is used next; until then its place is full of NaN.
    """

    def __init__(self, kernels: HostKernels, graph: Graph, node: Node, streams: Streams, values: dict[str, bytes]):
        self.kernels = kernels
        names = (*node.inputs, *node.outputs)
        self.memory = {name: bytearray(values.get(name, b"\xff" * graph.tensors[name].size_bytes)) for name in names}
        for new, old in zip(node.outputs, node.inputs, strict=False):
            if graph.tensors[new].updates is not None:
                self.memory[new] = self.memory[old]
        self.streamed = streams.inputs | streams.outputs | set(streams.old_version.values())
        self.seen: dict[tuple[str, bool], list[int]] = {}
        self.under_way: list[tuple[Move, int, dict[str, int]]] = []
        self.unchecked: list[tuple[str, int, int]] = []
        """(tensor, offset, byte of the workspace) of tiles that were started."""

    def run(self, program: Program) -> None:
        self.workspace = (ctypes.c_char * max(program.workspace_bytes, 1))(*b"\xff" * program.workspace_bytes)
        self.walk(program.body, {})
        assert not self.under_way and not self.unchecked
        for (name, _), counts in self.seen.items():
            assert len(set(counts)) == 1 and counts[0] > 0, f"passes over {name} do not cover it"

    def walk(self, body: tuple[Statement, ...], where: dict[str, int]) -> None:
        for step in body:
            if isinstance(step, Loop):
                for i in range(step.first, step.end):
                    self.walk(step.body, {**where, step.variable: i})
            elif isinstance(step, Move):
                if step.streamed:
                    self.wait()
                self.move(step, at(step.at, where), where)
            elif isinstance(step, Pick):
                self.wait()
                self.pick(step, at(step.at, where), where)
            elif isinstance(step, Start):
                self.start(step.move, where)
            elif isinstance(step, StartNext):
                if where[step.variable] < step.last:
                    self.walk(tuple(map(Start, step.moves)), where)
                else:
                    self.walk(step.after, where)
            elif isinstance(step, Wait):
                self.wait()
            elif isinstance(step, Check):
                self.unchecked.remove((step.move.tensor, at(step.move.at, where), in_tile(step.move, where)))
            else:
                self.call(step, where)

    def start(self, step: Move, where: dict[str, int]) -> None:
        assert step.streamed and not step.to_tensor and len(self.under_way) < MOST_STARTS
        self.under_way.append((step, at(step.at, where), dict(where)))
        self.unchecked.append((step.tensor, at(step.at, where), in_tile(step, where)))
        first = in_tile(step, where)
        self.workspace[first : first + step.shape.size_bytes] = b"\xff" * step.shape.size_bytes

    def wait(self) -> None:
        started, self.under_way = self.under_way, []
        for step, offset, where in started:
            self.move(step, offset, where)

    def move(self, step: Move, offset: int, where: dict[str, int]) -> None:
        shape, tensor, tile = step.shape, self.memory[step.tensor], in_tile(step, where)
        assert step.streamed == (step.tensor in self.streamed)
        assert tile + shape.size_bytes <= len(self.workspace)
        for run in range(shape.runs):
            inside = tile + run * shape.run_bytes
            outside = offset + run * shape.stride_bytes
            assert 0 <= outside <= len(tensor) - shape.run_bytes
            if step.to_tensor:
                tensor[outside : outside + shape.run_bytes] = self.workspace[inside : inside + shape.run_bytes]
            else:
                self.workspace[inside : inside + shape.run_bytes] = bytes(tensor[outside : outside + shape.run_bytes])
            if step.streamed:
                self.count(step, range(outside + shape.again_bytes, outside + shape.run_bytes))

    def pick(self, step: Pick, offset: int, where: dict[str, int]) -> None:
        assert step.streamed == (step.table in self.streamed)
        first = offset // 4
        rows = step.constants[first : first + step.count]
        table = self.memory[step.table]
        data = b"".join(bytes(table[row * step.row_bytes :][: step.row_bytes]) for row in rows)
        to, target = at(step.target.at, where), step.target.tensor
        if target is None:
            self.workspace[to : to + len(data)] = data
        else:
            self.memory[target][to : to + len(data)] = data

    def count(self, step: Move, fresh: range) -> None:
        """A pass is over when all bytes were there once; none is there twice before."""
        counts = self.seen.setdefault((step.tensor, step.to_tensor), [0] * len(self.memory[step.tensor]))
        least = min(counts)
        for i in fresh:
            assert counts[i] == least, f"a pass over {step.tensor} has a byte twice"
            counts[i] += 1

    def call(self, step: Call, where: dict[str, int]) -> None:
        pointers: list[ctypes.c_void_p | ctypes.c_uint32] = []
        for operand in step.operands:
            offset = at(operand.at, where)
            if isinstance(operand, Number):
                pointers.append(ctypes.c_uint32(offset))
            elif operand.tensor is None:
                pointers.append(ctypes.c_void_p(ctypes.addressof(self.workspace) + offset))
            else:
                assert operand.tensor not in self.streamed
                memory = self.memory[operand.tensor]
                pointers.append(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)) + offset))
        self.kernels.function(step.kernel.name)(*pointers)


def at(index: Index, where: dict[str, int]) -> int:
    return index.start + sum(where[variable] * step for variable, step in index.steps) + behind(index.copy, where)


def behind(copy: Copy | None, where: dict[str, int]) -> int:
    return (sum(map(where.__getitem__, copy.variables)) + copy.turn) % 2 * copy.distance_bytes if copy else 0


def in_tile(step: Move, where: dict[str, int]) -> int:
    return step.buffer + behind(step.copy, where)
