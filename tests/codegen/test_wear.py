"""How long storage lasts: by arithmetic, by counting every erase, and as a budget of the solver."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from poet_codegen.board import Board, load_board
from poet_codegen.errors import BoardError
from poet_codegen.folder import Lifetime
from poet_codegen.lower import Home
from poet_codegen.plan import make_plan, make_request
from poet_codegen.recipe import DEFAULT_RECIPE
from poet_codegen.wear import wear_budget_bytes, wear_of
from poet_solver.errors import InfeasibleError

from .test_on_host import chain
from .test_pages import UNIT_BYTES, flash_board

ENDURANCE = 1000


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return load_board(flash_board(tmp_path, 64))


@pytest.mark.parametrize("seed", range(10))
def test_no_unit_is_erased_more_often_than_it_endures(board: Board, seed: int) -> None:
    rng = random.Random(seed)
    ring, stride = rng.choice([23, 29, 31]), rng.randint(1, 9)
    erases = [rng.randint(0, 3) for _ in range(rng.randint(1, ring))]  # of the window's units, in a step
    total = sum(erases) or 1
    steps = wear_of(board, ring, float(total * UNIT_BYTES)).steps
    assert steps is not None
    count = [0] * ring
    for step in range(steps):
        for unit, times in enumerate(erases):
            count[(unit - step * stride) % ring] += times
    assert max(count) <= ENDURANCE
    assert steps >= ENDURANCE * ring / total - ring


@pytest.mark.parametrize("steps", [1, 100, 5000, 40_000])
def test_a_schedule_within_the_budget_lasts_as_long_as_asked(board: Board, steps: int) -> None:
    budget = wear_budget_bytes(board, 9000, steps)
    lasts = wear_of(board, 43, budget).steps  # 64 units less 2 x 9 for checkpoints: 46, and the prime below it
    assert lasts is not None and lasts >= steps
    more = wear_of(board, 43, budget + UNIT_BYTES).steps
    assert more is not None and more < steps + 43


def test_storage_that_spreads_writes_itself(board: Board) -> None:
    card = dataclasses.replace(board.storage, erase=None)
    plain = dataclasses.replace(board, storage_devices=(card,))
    assert wear_of(plain, 0, 4096.0).steps == ENDURANCE * 64 * UNIT_BYTES // 4096
    assert wear_budget_bytes(plain, 9000, 16_000) == 4096.0
    unknown = dataclasses.replace(board, storage_devices=(dataclasses.replace(card, endurance_erases=None),))
    assert wear_of(unknown, 0, 4096.0).steps is None
    with pytest.raises(BoardError, match="no endurance_erases"):
        wear_budget_bytes(unknown, 9000, 16_000)


def test_a_lifetime_is_kept_or_refused_with_one_that_works(
    make_model: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(chain(make_model), path)

    def lasts(days: float) -> int:
        lifetime = Lifetime(days, 100.0)
        board = flash_board(tmp_path, 64)
        request = make_request(path, board, 4300, None, Home.STORAGE, DEFAULT_RECIPE, "both", 0, lifetime=lifetime)
        steps = make_plan(request, path, threads=1, time_limit_s=5).wear.steps
        assert steps is not None
        return steps

    # Five weights, each two units, all written in every step: 100 rounds of 47 units.
    with pytest.raises(InfeasibleError, match=r"does not last 4,701 .* works is 47 days at 100 steps a day \(4,700"):
        lasts(47.01)
    assert lasts(47.0) == 4700
