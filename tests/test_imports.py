"""What may import what (DESIGN §1): codegen -> solver; hil and solver on their own; the command line sees
all."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from poet_codegen.resources import checkout_root

ROOT = checkout_root()
assert ROOT is not None
OURS = {"poet_codegen": ROOT / "codegen", "poet_solver": ROOT / "solver", "poet_hil": ROOT / "hil_tests"}
ALLOWED = {
    "poet_solver": {"poet_solver"},
    "poet_hil": {"poet_hil"},
    "poet_codegen": {"poet_codegen", "poet_solver"},
    "poet_codegen.cli": {"poet_codegen", "poet_solver", "poet_hil"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in OURS.items():
        for path in sorted((folder / package).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join(parts), path


def imported_packages(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; this test does not follow those"
            found.add((node.module or "").partition(".")[0])
    return found & OURS.keys()


@pytest.mark.parametrize(
    ("module", "path"), list(modules()), ids=lambda value: str(value) if isinstance(value, str) else ""
)
def test_imports_follow_the_arrows(module: str, path: Path) -> None:
    owner = "poet_codegen.cli" if module.startswith("poet_codegen.cli.") else module.partition(".")[0]
    assert imported_packages(path) <= ALLOWED[owner]


def test_there_is_something_to_check() -> None:
    assert {name.partition(".")[0] for name, _ in modules()} == OURS.keys()
