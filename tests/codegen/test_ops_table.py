"""The README's table of operators is the registry's."""

from __future__ import annotations

from pathlib import Path

import pytest
from poet_codegen.board import list_boards, load_board
from poet_codegen.cycles import cycle_table
from poet_codegen.ops import registry


def test_readme_has_the_operators() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    table = registry.operator_table()
    assert table in readme, f"replace the table in README.md by:\n{table}"


def test_every_operator_is_drawn_against_pytorch() -> None:
    """Gradients of each are compared over drawn shapes by one of these; Dropout draws as PyTorch cannot."""
    files = ("test_ops_gradients.py", "test_ops_layers.py", "test_dropout.py")
    text = "".join((Path(__file__).parent / name).read_text() for name in files)
    assert not [name for name in registry.onnx_ops() if f'"{name}"' not in text]


def test_files_of_operators_stay_short() -> None:
    folder = Path(registry.__file__).parent
    long = [path.name for path in folder.glob("*.py") if len(path.read_text().splitlines()) > 400]
    assert not long


def test_cycle_table_marks_estimates() -> None:
    table = cycle_table("cortex-m4")
    assert table.source.startswith("estimate") and table.spread > 0


@pytest.mark.parametrize("name", list_boards())
def test_every_board_has_a_row_for_every_kernel(name: str) -> None:
    table = cycle_table(load_board(name).cpu.cycle_table)
    assert table.default is not None or table.kernel.keys() == cycle_table("cortex-m4").kernel.keys()
