"""Every mode of every op is run by some schedule, however dear it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper
from poet_codegen.cover import NEAR, covered, effort, modes, next_cover
from poet_codegen.lower import Home
from poet_codegen.plan import Plan, make_plan, make_request
from poet_codegen.recipe import DEFAULT_RECIPE
from poet_solver.replay import replay


@pytest.fixture(scope="module")
def wide(make_model: Callable[..., onnx.ModelProto], tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Two dense layers of which either fits whole or in tiles, on storage so quick that tiles are not absurdly dear."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((32, 32)).astype(np.float32) for name in ("a", "b")}
    nodes = [helper.make_node("Gemm", ["x", "a"], ["h"]), helper.make_node("Gemm", ["h", "b"], ["y"])]
    path = tmp_path_factory.mktemp("wide") / "wide.onnx"
    onnx.save(make_model(nodes, [1, 32], weights), path)
    request = make_request(
        path, "qemu_mps2_an386", 6144, None, Home.STORAGE, DEFAULT_RECIPE, "both", 0, storage="memory_mapped"
    )
    return make_plan(request, path, threads=1, time_limit_s=2)


def test_passes_run_every_mode(wide: Plan) -> None:
    """In hardly more schedules than the op with most modes needs, each of them legal."""
    left = modes(wide) - covered(wide)
    dear = left - modes(wide, NEAR)
    assert dear, "the model was chosen for its modes"
    passes, seconds = effort(wide, left)
    assert passes > 1 and seconds > passes
    begun = len(left)
    for turn in range(8):
        other = next_cover(wide, left, turn, 2.0)
        assert other is not None
        replay(other.train.lowered.problem, other.train.schedule)
        replay(other.infer.lowered.problem, other.infer.schedule)
        assert covered(other) <= modes(wide)
        left -= covered(other)
    assert begun - len(left) >= 2 * 8
    for name in sorted(dear)[:2]:
        other = next_cover(wide, frozenset({name}), 0, 2.0)
        assert other is not None and name in covered(other)


def test_there_is_no_pass_for_what_has_run(wide: Plan) -> None:
    assert next_cover(wide, frozenset(), 0, 1.0) is None
    assert effort(wide, frozenset()) == (0, 0.0)
