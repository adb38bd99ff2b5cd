"""Write digits.npz: scikit-learn's 1,797 real 8x8 images of handwritten digits, split 1,437 to 360.

python examples/digits/make_data.py OUTPUT.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TEST_SAMPLES = 360
SEED = 7


def write_data(target: Path) -> None:
    """x_train, y_train, x_test, y_test; pixels scaled to [0, 1], order shuffled once."""
    digits = load_digits()
    x = (digits.images / 16.0).astype(np.float32)[:, None]
    y = digits.target.astype(np.int32)
    order = np.random.default_rng(SEED).permutation(len(x))
    test, train = order[:TEST_SAMPLES], order[TEST_SAMPLES:]
    np.savez(target, x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: make_data.py OUTPUT.npz")
    write_data(Path(sys.argv[1]))
