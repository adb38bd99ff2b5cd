"""Every mode of every op is run by some schedule, however dear it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper
from poet_codegen.cover import NEAR, Cover
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
    """However dear it is, several ops' at once, each schedule legal."""
    cover = Cover(wide)
    left = cover.modes() - cover.run_by(wide)
    dear = left - cover.modes(NEAR)
    assert dear, "the model was chosen for its modes"
    passes, seconds = cover.effort(left)
    assert passes > 1 and seconds > passes
    begun = len(left)
    for turn in range(8):
        other = cover.next(left, turn, 2.0)
        assert other is not None
        replay(other.train.lowered.problem, other.train.schedule)
        replay(other.infer.lowered.problem, other.infer.schedule)
        left -= cover.run_by(other)
    assert begun - len(left) >= 2 * 8
    for name in sorted(dear)[:2]:
        other = cover.next(frozenset({name}), 0, 2.0)
        assert other is not None and name in cover.run_by(other)


def test_there_is_no_pass_for_what_has_run(wide: Plan) -> None:
    assert Cover(wide).next(frozenset(), 0, 1.0) is None
    assert Cover(wide).effort(frozenset()) == (0, 0.0)
