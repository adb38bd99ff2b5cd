"""The elementary functions that operators need: error against float64, and special values."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poet_codegen.platformio.flags import host_flags
from poet_codegen.resources import data_dir

Array = np.ndarray[Any, Any]
Apply = Callable[..., Array]


@pytest.fixture(scope="module")
def apply(tmp_path_factory: pytest.TempPathFactory) -> Apply:
    """apply("tanh", x): poet_tanhf of every element."""
    folder: Path = tmp_path_factory.mktemp("math")
    names = {"sqrt": 1, "tanh": 1, "erf": 1, "pow": 2, "normal_cdf": 1}
    code = ['#include "poet/math.h"']
    for name, count in names.items():
        letters = "ab"[:count]
        parameters = ", ".join(f"const float *{a}" for a in letters)
        values = ", ".join(f"{a}[i]" for a in letters)
        code.append(f"void map_{name}({parameters}, float *y, int n);")
        code.append(f"void map_{name}({parameters}, float *y, int n)")
        code.append(f"{{ for (int i = 0; i < n; i++) y[i] = poet_{name}f({values}); }}")
    (folder / "map.c").write_text("\n".join(code) + "\n")
    firmware = data_dir("firmware")
    sources = [str(folder / "map.c"), str(firmware / "src" / "math.c")]
    target = folder / "map.so"
    include = f"-I{firmware / 'include'}"
    subprocess.run(["cc", *host_flags(), "-fPIC", "-shared", include, *sources, "-o", str(target)], check=True)
    library = ctypes.CDLL(str(target))

    def run(name: str, *arguments: Any) -> Array:
        arrays = [np.ascontiguousarray(np.atleast_1d(a), np.float32) for a in arguments]
        y = np.empty_like(arrays[0])
        pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (*arrays, y)]
        getattr(library, f"map_{name}")(*pointers, y.size)
        return y

    return run


def error_ulp(got: Array, exact: Array) -> float:
    _, exponent = np.frexp(exact)
    return float((np.abs(got.astype(np.float64) - exact) / np.ldexp(1.0, np.maximum(exponent, -125) - 24)).max())


def floats(first: int, last: int, step: int) -> Array:
    return np.arange(first, last, step, dtype=np.uint32).view(np.float32)


def test_sqrt_is_rounded_correctly(apply: Apply) -> None:
    x = np.concatenate([floats(0, 0x7F800000, 4093), floats(1, 0x00800000, 1021), floats(0x3F800000, 0x40800000, 61)])
    assert np.array_equal(apply("sqrt", x), np.sqrt(x))
    special = apply("sqrt", [0.0, -0.0, np.inf, -1.0, np.nan])
    assert list(special[:3]) == [0, 0, np.inf] and np.signbit(special[1]) and np.isnan(special[3:]).all()


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_error_of_odd_functions(apply: Apply, name: str) -> None:
    x = np.concatenate([floats(0x00800000, 0x41200000, 1511), np.linspace(0.5, 1.5, 200_000, dtype=np.float32)])
    y = apply(name, x)
    exact = np.array([getattr(math, name)(float(v)) for v in x])
    assert error_ulp(y, exact) <= 1.5
    assert np.array_equal(apply(name, -x), -y)
    special = apply(name, [0.0, -0.0, 1e-45, 50.0, np.inf, -np.inf, np.nan])
    assert list(special[:6]) == [0, 0, np.float32(1e-45), 1, 1, -1] and np.isnan(special[6])


def test_normal_distribution(apply: Apply) -> None:
    x = np.concatenate([np.linspace(-7, 7, 200_000), np.arange(-28, 29) / 4, [np.inf, -np.inf]]).astype(np.float32)
    exact = np.array([0.5 * math.erfc(-float(v) / math.sqrt(2)) for v in x])
    got = apply("normal_cdf", x)
    assert np.abs(got - exact).max() <= 7e-8
    assert (got[x <= -6] == 0).all() and (got[x >= 6] == 1).all() and (got <= 1).all() and (got >= 0).all()
    assert apply("normal_cdf", [np.nan]) == 0


def test_pow(apply: Apply) -> None:
    rng = np.random.default_rng(1)
    x = np.exp(rng.uniform(-20, 20, 200_000)).astype(np.float32)
    y = rng.uniform(-4, 4, x.size).astype(np.float32)
    y[::2] = np.round(y[::2] * 10)
    normal = np.abs(np.log(x) * y) < 87
    x, y = x[normal], y[normal]
    exact = x.astype(np.float64) ** y
    whole = (y == np.round(y)) & (np.abs(y) <= 64)
    steps = 3 + np.where(whole, np.abs(y), 2 * np.abs(y * np.log(x)))
    _, exponent = np.frexp(exact)
    error = np.abs(apply("pow", x, y) - exact) / np.ldexp(1.0, exponent - 24)
    worst = np.argmax(error / steps)
    assert (error <= steps).all(), (x[worst], y[worst], error[worst], steps[worst])


def test_pow_special_values(apply: Apply) -> None:
    x = [-2.0, -2.0, -2.0, 0.0, 0.0, 0.0, np.nan, -8.0, -1.5, -1.5, 1.0, np.inf]
    y = [3.0, -2.0, 65.0, 2.5, 0.0, -1.0, 0.0, 1 / 3, 101.0, 100.0, np.nan, -0.5]
    got = apply("pow", x, y)
    expected = [-8, 0.25, -(2.0**65), 0, 1, np.inf, 1, np.nan, -(1.5**101), 1.5**100, 1, 0]
    assert np.allclose(got, expected, rtol=1e-5, equal_nan=True)
