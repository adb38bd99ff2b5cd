"""exp and log: error against float64 and special values. All functions: the same bits on host and target."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest

from .line import INFER, READ_OUTPUT, WRITE_INPUT, Device

Unit = Callable[[list[tuple[str, bytes]]], list[bytes]]
EXP_UNDERFLOW, EXP_OVERFLOW = float.fromhex("-0x1.5d58a0p+6"), float.fromhex("0x1.62e430p+6")
MOST_ULP = 1.0


def evaluate(unit: Unit, operation: str, x: np.ndarray) -> np.ndarray:
    (result,) = unit([(operation, x.astype("<f4").tobytes())])
    return np.frombuffer(result, "<f4")


def error_ulp(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance from the exact result, in units in the last place of a float32 of its size."""
    _, exponent = np.frexp(exact)
    return np.abs(got.astype(np.float64) - exact) / np.ldexp(1.0, exponent - 24)


def sample_floats(sign: int) -> np.ndarray:
    """Every 1021st float32 of one sign, zero and infinity included."""
    bits = np.arange(0, 0x7F800001, 1021, dtype=np.uint32)
    return (bits | np.uint32(sign << 31)).view(np.float32)


def test_expf_error(unit: Unit) -> None:
    dense = np.linspace(-87.3, 88.7, 400_000, dtype=np.float32)
    x = np.concatenate([sample_floats(0), sample_floats(1), dense])
    x = x[(x > EXP_UNDERFLOW) & (x < EXP_OVERFLOW)]
    error = error_ulp(evaluate(unit, "x", x), np.exp(x.astype(np.float64)))
    print(f"poet_expf: at most {error.max():.3f} ulp over {x.size} arguments")
    assert error.max() <= MOST_ULP


def test_logf_error(unit: Unit) -> None:
    near_one = np.linspace(0.5, 2.0, 400_000, dtype=np.float32)
    x = np.concatenate([sample_floats(0)[1:], near_one])
    x = x[np.isfinite(x) & (x != 1.0)]
    error = error_ulp(evaluate(unit, "l", x), np.log(x.astype(np.float64)))
    print(f"poet_logf: at most {error.max():.3f} ulp over {x.size} arguments")
    assert error.max() <= MOST_ULP


def test_expf_special_values(unit: Unit) -> None:
    below, above = np.nextafter(np.float32(EXP_UNDERFLOW), np.float32(0)), np.float32(EXP_OVERFLOW)
    x = np.array([0, -0.0, EXP_UNDERFLOW, below, -1e9, -np.inf, above, 1e9, np.inf, np.nan], np.float32)
    y = evaluate(unit, "x", x)
    smallest_normal = np.finfo(np.float32).tiny
    assert list(y[:3]) == [1, 1, 0] and smallest_normal <= y[3] < 1.2e-38
    assert list(y[4:9]) == [0, 0, np.inf, np.inf, np.inf] and np.isnan(y[9])
    assert np.isfinite(evaluate(unit, "x", np.nextafter(above, np.float32(0))[None]))[0]


def test_logf_special_values(unit: Unit) -> None:
    y = evaluate(unit, "l", np.array([0, -0.0, 1, np.inf, -1, -1e-45, -np.inf, np.nan], np.float32))
    assert list(y[:4]) == [-np.inf, -np.inf, 0, np.inf] and np.isnan(y[4:]).all()


@pytest.mark.emulated
def test_same_bits_on_host_and_target(boot_host: Callable[..., Device], boot_qemu: Callable[..., Device]) -> None:
    host, target = boot_host().connect(), boot_qemu().connect()
    for client in (host, target):
        client.write_sample(0.0)
    for first in range(0, 64 * 16381, 16381):
        digests = set()
        for client in (host, target):
            client.do(WRITE_INPUT, struct.pack("<2I7fI", 0, 0, *[0.0] * 7, first))
            client.do(INFER)
            digests.add(client.do(READ_OUTPUT, struct.pack("<II", 0, 8)))
        assert len(digests) == 1, f"bits differ in the sweep from {first:#x}"
