"""Steps in tiles that are alike share their loops where each by itself would outgrow the board's flash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from poet_codegen.board import Board
from poet_codegen.lower import Home
from poet_codegen.plan import Plan, make_plan, make_request
from poet_codegen.recipe import DEFAULT_RECIPE

from .test_on_host import BOARD, Maker, run

LAYERS, WIDTH = 4, 24


def stack(make_model: Maker) -> onnx.ModelProto:
    """Dense layers of one shape."""
    rng = np.random.default_rng(9)
    weights = {f"w{i}": (rng.standard_normal((WIDTH, WIDTH)) / 5).astype(np.float32) for i in range(LAYERS)}
    nodes, last = [], "x"
    for i in range(LAYERS):
        nodes.append(helper.make_node("Gemm", [last, f"w{i}"], [f"a{i}"], f"g{i}", transB=1))
        nodes.append(helper.make_node("Relu", [f"a{i}"], [f"r{i}"], f"relu{i}"))
        last = f"r{i}"
    nodes[-1].output[0] = "y"
    return make_model(nodes, [1, WIDTH], weights)


def with_flash(board: Board, size_bytes: int) -> Board:
    memory = (replace(r, size_bytes=size_bytes) if r.name == "flash" else r for r in board.memory)
    return replace(board, memory=tuple(memory))


def test_alike_steps_share_their_loops_where_flash_is_small(make_model: Maker, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(stack(make_model), path)
    request = make_request(path, BOARD, 1600, None, Home.STORAGE, DEFAULT_RECIPE, "both", 0)
    plan: Plan = make_plan(request, path, threads=1, time_limit_s=3)
    code = plan.steps_code
    assert code.tiled > 2 * LAYERS and not code.is_shared
    weight_bytes = sum(param.size_bytes for param in plan.train.graph.params())
    tight = with_flash(plan.board, 48 * 1024 + weight_bytes + 2 * (code.unrolled_bytes - 1))
    small = replace(plan, board=tight)
    assert small.steps_code.is_shared
    by_itself = run(plan, tmp_path / "itself")
    assert run(small, tmp_path / "shared") == by_itself

    itself, shared = (tmp_path / name / "project" for name in ("itself", "shared"))
    assert not (itself / "src" / "poet_nests.c").exists()
    text = (shared / "src" / "poet_schedule.c").read_text(encoding="utf-8")
    table = (shared / "src" / "poet_nests.c").read_text(encoding="utf-8")
    assert text.count("poet_nest_") > LAYERS > table.count("poet_status_t poet_nest_") > 0
    assert len(text) + len(table) < 0.8 * len((itself / "src" / "poet_schedule.c").read_text(encoding="utf-8"))
