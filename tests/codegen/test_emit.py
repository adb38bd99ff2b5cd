"""Generated projects: the same bytes every time, no harm from names, no warning from compilers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from poet_codegen.board import PAGE_HEADER_BYTES
from poet_codegen.emit.names import c_names
from poet_codegen.emit.pages import CHECKPOINT_HEADER_BYTES, CHECKPOINT_SLOTS
from poet_codegen.emit.project import ABI, emit_project
from poet_codegen.folder import BuildFolder
from poet_codegen.lower import Home
from poet_codegen.plan import Plan, load_plan, make_plan, make_request, save_plan
from poet_codegen.platformio.flags import compile_flags, host_flags, machine_flags
from poet_codegen.recipe import DEFAULT_RECIPE
from poet_codegen.resources import data_dir
from poet_solver.errors import InfeasibleError

BOARD = "qemu_netduinoplus2"


def plan_of(path: Path, ram_bytes: int, technique: str = "both", home: Home = Home.RAM) -> Plan:
    request = make_request(path, BOARD, ram_bytes, None, home, DEFAULT_RECIPE, technique, 0)
    return make_plan(request, path, threads=1, time_limit_s=30)


@pytest.fixture(scope="module")
def tight(digits_path: Path) -> Plan:
    """A plan that recomputes and pages."""
    return plan_of(digits_path, 24576)


def write(files: dict[str, bytes], root: Path) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def test_constants_shared_with_the_firmware() -> None:
    include = data_dir("firmware") / "include" / "poet"
    assert f"#define POET_ABI {ABI}\n" in (include / "model.h").read_text()
    assert f"#define POET_PAGE_HEADER_BYTES {PAGE_HEADER_BYTES}u" in (include / "page.h").read_text()
    checkpoint = (include / "checkpoint.h").read_text()
    assert f"#define POET_CHECKPOINT_HEADER_BYTES {CHECKPOINT_HEADER_BYTES}u" in checkpoint
    assert f"#define POET_CHECKPOINT_SLOTS {CHECKPOINT_SLOTS}u" in checkpoint


def test_same_bytes_under_any_hash_seed(digits_path: Path, tmp_path: Path, tight: Plan) -> None:
    folder = BuildFolder(tmp_path / "b")
    save_plan(tight, digits_path, folder)
    code = (
        "import hashlib, sys; from pathlib import Path\n"
        "from poet_codegen.folder import BuildFolder; from poet_codegen.plan import load_plan\n"
        "from poet_codegen.emit.project import emit_project\n"
        "files = emit_project(load_plan(BuildFolder(Path(sys.argv[1]))).build_input())\n"
        "print([(n, hashlib.sha256(d).hexdigest()) for n, d in files.items()])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(folder.path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_saved_plan_reads_back(digits_path: Path, tmp_path: Path, tight: Plan) -> None:
    folder = BuildFolder(tmp_path)
    save_plan(tight, digits_path, folder)
    assert emit_project(load_plan(folder).build_input()) == emit_project(tight.build_input())


def test_schedule_is_in_plain_sight(tight: Plan) -> None:
    text = emit_project(tight.build_input())["src/poet_schedule.c"].decode()
    assert re.search(
        r"/\* \d+: recompute [^\n]+ \(\w+\) \*/\n    poet_mark\(\d+u\);\n    poet_count_recompute\(\);",
        text,
    )
    assert re.search(r"POET_TRY\(poet_page_out\(PAGE_\w+, ARENA\(AT_\w+\), \d+u\)\);", text)
    assert re.search(r"POET_TRY\(poet_page_in\(PAGE_\w+, ARENA\(AT_\w+\), \d+u\)\);", text)
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("compiler", ["host", "arm"])
def test_generated_c_has_no_warning(tight: Plan, tmp_path: Path, compiler: str) -> None:
    tool = "cc" if compiler == "host" else "arm-none-eabi-gcc"
    if shutil.which(tool) is None:
        assert "CI" not in os.environ, f"{tool} must be there in CI"
        pytest.skip(f"{tool} is not installed")
    flags = host_flags() if compiler == "host" else (*machine_flags(tight.board), *compile_flags(tight.board))
    write(emit_project(tight.build_input()), tmp_path)
    include = [f"-I{tmp_path / 'include'}", f"-I{data_dir('firmware') / 'include'}"]
    for source in sorted((tmp_path / "src").glob("*.c")):
        command = [tool, *flags, *include, "-c", str(source), "-o", str(source.with_suffix(".o"))]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0 and not result.stderr, result.stderr


def test_stale_abi_does_not_compile(tight: Plan, tmp_path: Path) -> None:
    write(emit_project(tight.build_input()), tmp_path)
    include = tmp_path / "newer"
    shutil.copytree(data_dir("firmware") / "include", include)
    header = include / "poet" / "model.h"
    header.write_text(header.read_text().replace(f"#define POET_ABI {ABI}\n", f"#define POET_ABI {ABI + 1}\n"))
    command = [
        "cc",
        f"-I{tmp_path / 'include'}",
        f"-I{include}",
        "-c",
        str(tmp_path / "src/poet_model.c"),
        "-o",
        "/dev/null",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0 and "Run poet build again" in result.stderr


HOSTILE = [
    'q"uote',
    "star*/ int evil;",
    "line\nbreak",
    "../../etc/passwd",
    "back\\slash",
    "??/",
    "",
    "a b",
    "A.b",
    "a_b",
    "é",
]


def test_c_names_are_unique_identifiers() -> None:
    names = c_names(HOSTILE)
    assert len(set(names.values())) == len(HOSTILE)
    assert all(re.fullmatch(r"[a-z_][a-z0-9_]*", name) for name in names.values())
    assert c_names(["x" * 500])["x" * 500] == "x" * 40


def test_hostile_names_do_no_harm(make_model: object, tmp_path: Path) -> None:
    w, b, node, value, title = (
        'w"*/',
        "b\n#error no\n",
        '*/ #error "no" /*',
        "../../y\\",
        "evil */ \n#error no\n??/",
    )
    weights = {w: np.ones((3, 4), np.float32), b: np.zeros(3, np.float32)}
    nodes = [
        helper.make_node("Relu", ["x\n*/"], [value], "relu\\"),
        helper.make_node("Gemm", [value, w, b], ["y*/"], node, transB=1),
    ]
    model = make_model(nodes, [1, 4], weights, name=title, x="x\n*/", y="y*/")  # type: ignore[operator]
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    files = emit_project(plan_of(path, 4096).build_input())
    assert all(re.fullmatch(r"[a-z_/]+\.(c|h|json)", name) for name in files)
    write(files, tmp_path / "p")
    include = [f"-I{tmp_path / 'p/include'}", f"-I{data_dir('firmware') / 'include'}"]
    for source in sorted((tmp_path / "p/src").glob("*.c")):
        command = ["cc", *host_flags(), *include, "-c", str(source), "-o", str(source.with_suffix(".o"))]
        assert subprocess.run(command, check=False).returncode == 0, source


def test_budget_too_small_names_op_and_bytes(digits_path: Path) -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan_of(digits_path, 8192)
    assert caught.value.needed_bytes > caught.value.budget_bytes == 8192
    assert f"{caught.value.needed_bytes}" in str(caught.value) and "8192" in str(caught.value)


def test_planning_again_removes_what_the_old_plan_made(digits_path: Path, tmp_path: Path, tight: Plan) -> None:
    folder = BuildFolder(tmp_path)
    save_plan(tight, digits_path, folder)
    for stale in (folder.project / "firmware.elf", folder.run / "weights.npz", folder.report):
        stale.parent.mkdir(parents=True, exist_ok=True)
        stale.touch()
    save_plan(tight, digits_path, folder)
    assert not folder.project.exists() and not folder.run.exists() and not folder.report.exists()
