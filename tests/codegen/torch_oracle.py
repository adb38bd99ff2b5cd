"""A tiny ONNX interpreter on PyTorch: the independent oracle for forward results and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch.nn import functional as f


def loss_and_gradients(
    model: onnx.ModelProto, x: np.ndarray[Any, Any], label: np.ndarray[Any, Any]
) -> tuple[float, dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """(mean cross entropy, gradient of every float initializer, logits), in float64 from the same float32 numbers."""
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    values: dict[str, torch.Tensor] = {
        name: torch.tensor(array.astype(np.float64), requires_grad=True)
        if array.dtype == np.float32
        else torch.tensor(array)
        for name, array in arrays.items()
    }
    values[model.graph.input[0].name] = torch.tensor(x.astype(np.float64))
    for node in model.graph.node:
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        values[node.output[0]] = _run(node.op_type, attrs, [values[name] for name in node.input])
    logits = values[model.graph.output[0].name]
    loss = f.cross_entropy(logits, torch.tensor(label, dtype=torch.long))
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: v.grad.numpy() for name, v in values.items() if name in arrays and v.grad is not None}
    return float(loss.detach()), gradients, logits.detach().numpy()


def _run(op: str, attrs: dict[str, Any], inputs: list[torch.Tensor]) -> torch.Tensor:
    if op == "Conv":
        top, left, bottom, right = attrs.get("pads", [0, 0, 0, 0])
        padded = f.pad(inputs[0], (left, right, top, bottom))
        bias = inputs[2] if len(inputs) > 2 else None
        strides, dilations = attrs.get("strides", [1, 1]), attrs.get("dilations", [1, 1])
        return f.conv2d(padded, inputs[1], bias, strides, 0, dilations, attrs.get("group", 1))
    if op == "MaxPool":
        top, left, bottom, right = attrs.get("pads", [0, 0, 0, 0])
        padded = f.pad(inputs[0], (left, right, top, bottom), value=-torch.inf)
        return f.max_pool2d(
            padded, attrs["kernel_shape"], attrs.get("strides", [1, 1]), 0, attrs.get("dilations", [1, 1])
        )
    if op == "Gemm":
        w = inputs[1].T if attrs.get("transB") else inputs[1]
        return inputs[0] @ w + (inputs[2] if len(inputs) > 2 else 0.0)
    if op == "Relu":
        return torch.relu(inputs[0])
    if op == "Add":
        return inputs[0] + inputs[1]
    if op == "Flatten":
        return inputs[0].flatten(attrs.get("axis", 1))
    if op == "Reshape":
        sizes = [int(size) or inputs[0].shape[axis] for axis, size in enumerate(inputs[1])]
        return inputs[0].reshape(sizes)
    raise NotImplementedError(op)
