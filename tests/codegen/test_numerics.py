"""Fused numerics: one rounding a multiply-add, the same bits on the host and on the target."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from poet_codegen.board import load_board
from poet_codegen.emit.kernel_source import kernel_source
from poet_codegen.emit.project import emit_project
from poet_codegen.errors import BoardError
from poet_codegen.graph import AttrValue
from poet_codegen.lower import Home
from poet_codegen.numerics import Numerics
from poet_codegen.plan import make_plan, make_request
from poet_codegen.platformio.flags import ARITHMETIC
from poet_codegen.recipe import DEFAULT_RECIPE
from poet_codegen.render import render
from poet_codegen.resources import data_dir

from tests.codegen.kernel_program import CORES, Case, build_program, case, failures, outcomes, own_forms
from tests.codegen.test_m4f import convolution

WINDOW: dict[str, AttrValue] = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "groups": 1}
EPSILON: dict[str, AttrValue] = {"epsilon": 1e-5}
FUSED = "#define POET_FUSED\n"


def sums_of_products() -> list[Case]:
    x, w, channel = (2, 3, 5, 7), (4, 3, 3, 3), (3,)
    y = (2, 4, 5, 7)
    layout: dict[str, AttrValue] = {"transposed": 1}
    return [
        case("Conv", [x, w, (4,)], WINDOW),
        case("ConvInputGrad", [y, w], WINDOW | {"extent": x[2:]}),
        case("ConvWeightGrad", [x, y], WINDOW | {"kernel": w[2:]}),
        case("ConvWeightGradSgd", [w, x, y, (1,)], WINDOW | {"kernel": w[2:]}),
        case("Dense", [(3, 11), (6, 11), (6,)], layout),
        case("DenseInputGrad", [(3, 6), (6, 11)], layout),
        case("DenseWeightGrad", [(3, 11), (3, 6)], layout),
        case("MatMul", [(2, 5, 7), (2, 7, 3)], {"trans_a": 0, "trans_b": 0}),
        case("LayerNormalization", [(30, 60)], EPSILON | {"axis": 1}),
        case("LayerNormalizationGrad", [(3, 20), (3, 1), (3, 20)], EPSILON | {"axis": 1}),
        case("SoftmaxGrad", [(3, 20), (3, 20)], {"axes": (1, 2)}),
        case("BatchStatistics", [x], {}),
        case("BatchNormalizationScaleGrad", [x, channel, channel, x], EPSILON, sizes=[2]),
        case("Mul", [x, x], {"shape": (5, 7)}),
    ]


def checksums(folder: Path, core: str, prelude: str) -> list[str]:
    """Of every case's plain form."""
    cases = sums_of_products()
    folder.mkdir()
    forms = [own_forms(c, number)[:1] for number, c in enumerate(cases)]
    found = outcomes(build_program(cases, forms, folder, CORES[core], head=prelude), CORES[core])
    assert [o.verdict for o in found] == ["right"] * len(cases)
    return [o.checksum for o in found]


@pytest.mark.emulated
def test_bits_of_host_and_target(tmp_path: Path) -> None:
    separate = checksums(tmp_path / "separate", "host", "")
    fused = checksums(tmp_path / "fused", "host", FUSED)
    same = [c.text for c, a, b in zip(sums_of_products(), separate, fused, strict=True) if a == b]
    assert same == [], "no sum of products is rounded otherwise"
    assert checksums(tmp_path / "m4", "cortex-m4", FUSED) == fused
    assert checksums(tmp_path / "m7", "cortex-m7", FUSED) == fused


@pytest.mark.emulated
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
def test_fused_blocks_have_the_bits_of_the_plain_kernels(core: str, tmp_path: Path) -> None:
    rng = random.Random(17)
    drawn = [
        convolution(rng, op, 1, rng.choice([1, 2, 3]), (rng.randrange(1, 12), rng.randrange(1, 18)), 3, groups)
        for op in ("Conv", "ConvInputGrad", "ConvWeightGrad")
        for groups in (1, 1, 2, 4)
    ]
    blocked = [c.kernel.blocked for c in sums_of_products()]
    cases = [c for c, form in zip(sums_of_products(), blocked, strict=True) if form is not None and form.fuses]
    assert len(cases) == 8
    cases += [c for c in drawn if c]
    forms = [own_forms(c, number, fused=True) for number, c in enumerate(cases)]
    elf = build_program(cases, forms, tmp_path, CORES[core], head=FUSED)
    assert failures(cases, outcomes(elf, CORES[core])) == []


def test_dense_layer_is_a_chain_of_fmaf(tmp_path: Path) -> None:
    kernel = case("Dense", [(2, 9), (3, 9), (3,)], {"transposed": 1}).kernel
    code, library = tmp_path / "dense.c", tmp_path / "dense.so"
    code.write_text(f'{FUSED}#include "poet/math.h"\n{render(f"kernels/{kernel.template}", **kernel.values)}')
    options = [*ARITHMETIC, "-fPIC", "-shared", f"-I{data_dir('firmware') / 'include'}"]
    subprocess.run(["cc", *options, str(code), "-lm", "-o", str(library)], check=True)
    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 9), (3, 9), (3,)))
    y = np.empty((2, 3), np.float32)
    dense = getattr(ctypes.CDLL(str(library)), kernel.name)
    dense(*(ctypes.c_void_p(array.ctypes.data) for array in (x, w, b, y)))
    fmaf = ctypes.CDLL(ctypes.util.find_library("m")).fmaf
    fmaf.restype, fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
    for n, o in np.ndindex(2, 3):
        total = float(b[o])
        for i in range(9):
            total = fmaf(float(x[n, i]), float(w[o, i]), total)
        assert y[n, o] == np.float32(total)


def test_a_fused_build_is_another_one(digits_path: Path) -> None:
    request = make_request(digits_path, "qemu_netduinoplus2", 60_000, None, Home.RAM, DEFAULT_RECIPE, "keep", 0)
    plans = {
        numerics: make_plan(replace(request, numerics=numerics), digits_path, threads=1, time_limit_s=5)
        for numerics in Numerics
    }
    fused, separate = plans[Numerics.FUSED], plans[Numerics.SEPARATE]
    assert fused.train.schedule.time_s > separate.train.schedule.time_s, "VFMA takes three cycles on this core"
    code = {numerics: emit_project(plan.build_input()) for numerics, plan in plans.items()}
    assert b"#define POET_FUSED" in code[Numerics.FUSED]["src/poet_kernels.c"]
    assert b"POET_FUSED" not in code[Numerics.SEPARATE]["src/poet_kernels.c"]
    manifests = [json.loads(files["manifest.json"]) for files in code.values()]
    assert {m["numerics"] for m in manifests} == {"separate", "fused"}
    assert len({m["model_digest"] for m in manifests}) == 2


def test_blocks_have_the_arithmetic_of_the_build() -> None:
    board = load_board("qemu_netduinoplus2")
    kernel = case("Conv", [(1, 8, 16, 16), (8, 8, 3, 3), (8,)], WINDOW).kernel
    separate, fused = (kernel_source(kernel, board, numerics) for numerics in Numerics)
    assert "vfma" not in separate and "vmul" in separate
    assert "vfma" in fused and "vmul" not in fused
    without = case("SoftmaxGrad", [(3, 20), (3, 20)], {"axes": (1, 2)}).kernel
    assert without.blocked and not without.blocked.fuses
    assert "POET_M4F" not in kernel_source(without, board, Numerics.FUSED)


def test_a_core_without_fpu_refuses(digits_path: Path) -> None:
    args = (digits_path, "qemu_lm3s6965", 20_000, None, Home.RAM, DEFAULT_RECIPE, "keep", 0)
    request = make_request(*args, numerics=Numerics.FUSED)
    with pytest.raises(BoardError, match="no fused multiply-add"):
        make_plan(request, digits_path, threads=1, time_limit_s=5)
