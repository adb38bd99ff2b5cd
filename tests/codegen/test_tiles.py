"""Programs of tiled ops, walked step by step: random shapes and tile sizes give the bits of the whole op."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poet_codegen.graph import Graph, Node
from poet_codegen.tiling.ahead import read_ahead
from poet_codegen.tiling.parts import Streams
from poet_codegen.tiling.program import Program

from .host_kernels import HostKernels
from .tile_cases import IN_TURN, as_laid, picks, programs
from .tile_machine import Machine

SEEDS = range(4)


@pytest.fixture(scope="module")
def cases() -> list[tuple[Graph, Node, Streams, Program]]:
    generators = [random.Random(seed) for seed in SEEDS]
    return [case for rng in generators for case in (*programs(rng), *picks(rng))]


def test_programs_give_the_bits_of_the_whole_op(
    cases: list[tuple[Graph, Node, Streams, Program]], tmp_path: Path
) -> None:
    graphs = {id(graph): graph for graph, *_ in cases}
    kernels = HostKernels(tmp_path, graphs.values(), [c.kernel for *_, program in cases for c in program.calls()])
    rng = np.random.default_rng(0)
    ahead = 0
    for number, (graph, node, streams, program) in enumerate(cases):
        values: dict[str, np.ndarray[Any, Any]] = {
            name: rng.standard_normal(graph.tensors[name].shape).astype(np.float32) for name in node.inputs
        }
        if "index" in values:
            rows = graph.tensors[node.outputs[0] if node.op == "GatherGrad" else node.inputs[0]].shape[0]
            values["index"] = rng.integers(-rows, rows, values["index"].shape).astype(np.int32)
        if "step" in values:
            values["step"] = np.array([3], np.int32)
            values |= {name: np.abs(values[name]) for name in ("v", "b_v") if name in values}
        whole = kernels.run(graph, values)
        twice = read_ahead(program) if number % 2 and IN_TURN not in program.title else None
        ahead += twice is not None
        for form in (program, *([twice] if twice else [])):
            laid = {name: as_laid(node, name, value).tobytes() for name, value in values.items()}
            machine = Machine(kernels, graph, node, streams, laid)
            machine.run(form)
            for name in node.outputs:
                expected = as_laid(node, name, whole[name]).tobytes()
                assert bytes(machine.memory[name]) == expected, (node.op, form.title, streams)
            assert form.streams() == program.streams()
    assert ahead > len(cases) // 6
