"""Record digits_gradients.npz from PyTorch: python tests/data/record_gradients.py (needs torch)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("torch_oracle", HERE.parent / "codegen" / "torch_oracle.py")
assert spec is not None and spec.loader is not None
oracle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(oracle)

model = onnx.load(HERE.parents[1] / "examples" / "digits" / "digits.onnx")
x = np.random.default_rng(11).random((1, 1, 8, 8), np.float32)
label = np.array([3])
loss, gradients, _ = oracle.loss_and_gradients(model, x, label)
np.savez(
    HERE / "digits_gradients.npz", x=x, label=label, loss=loss, **{f"g:{name}": g for name, g in gradients.items()}
)
