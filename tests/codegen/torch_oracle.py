"""A tiny ONNX interpreter on PyTorch: the independent oracle for forward results and gradients."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch.nn import functional as f

Array = np.ndarray[Any, Any]


def loss_and_gradients(model: onnx.ModelProto, x: Array, label: Array) -> tuple[float, dict[str, Array], Array]:
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


def outputs_and_gradients(
    model: onnx.ModelProto, feeds: dict[str, Array], seeds: list[Array]
) -> tuple[list[Array], dict[str, Array]]:
    """(outputs, gradient of sum(seed * output) for every float input and initializer), in float64."""
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer} | feeds
    values: dict[str, torch.Tensor] = {}
    for name, array in arrays.items():
        is_float = array.dtype == np.float32
        values[name] = torch.tensor(array.astype(np.float64) if is_float else array, requires_grad=is_float)
    for node in model.graph.node:
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        result = _run(node.op_type, attrs, [values[name] if name else None for name in node.input])
        results = result if isinstance(result, tuple | list) else (result,)
        values.update(zip(node.output, results, strict=False))
    outputs = [values[value.name] for value in model.graph.output]
    total = sum((out * torch.tensor(seed.astype(np.float64))).sum() for out, seed in zip(outputs, seeds, strict=True))
    total.backward()  # type: ignore[union-attr,no-untyped-call]
    gradients = {name: values[name].grad for name in arrays}
    zeros = {name: np.zeros(arrays[name].shape) for name, gradient in gradients.items() if gradient is None}
    return [o.detach().numpy() for o in outputs], zeros | {n: g.numpy() for n, g in gradients.items() if g is not None}


_UNARY = {
    "Neg": torch.neg,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Erf": torch.erf,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "HardSwish": f.hardswish,
}
_BINARY = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div, "Pow": torch.pow}


def _pointwise(op: str, attrs: dict[str, Any], x: list[Any]) -> torch.Tensor | None:
    if op in _UNARY:
        return _UNARY[op](x[0])
    if op in _BINARY and "axis" in attrs:
        # Up to operator set 6: the second operand's axes start at `axis`.
        behind = x[0].dim() - attrs["axis"] - x[1].dim()
        return _BINARY[op](x[0], x[1].reshape([*x[1].shape, *[1] * behind]))
    if op == "Where":
        return torch.where(x[0], x[1], x[2])
    if op in _BINARY:
        return _BINARY[op](x[0], x[1])
    if op == "Sum":
        return sum(x[1:], x[0])
    if op == "LeakyRelu":
        return f.leaky_relu(x[0], attrs.get("alpha", 0.01))
    if op == "PRelu":
        return torch.where(x[0] > 0, x[0], x[1] * x[0])
    if op == "Clip":
        low, high = (x[i].item() if len(x) > i and x[i] is not None else None for i in (1, 2))
        return torch.clamp(x[0], low, high)
    if op == "HardSigmoid":
        return torch.clamp(attrs.get("alpha", 0.2) * x[0] + attrs.get("beta", 0.5), 0.0, 1.0)
    if op == "Gelu":
        return f.gelu(x[0], approximate=attrs.get("approximate", b"none").decode())
    return None


def _viewing(op: str, attrs: dict[str, Any], x: list[Any]) -> Any:
    """Ops that leave every element as it is."""
    if op in ("Identity", "Cast", "CastLike"):
        return x[0] * 1.0
    if op == "Squeeze":
        axes = [axis % x[0].dim() for axis in x[1].tolist()]
        return x[0].reshape([size for axis, size in enumerate(x[0].shape) if axis not in axes])
    if op == "Unsqueeze":
        thin = x[0]
        for axis in sorted(axis % (x[0].dim() + len(x[1])) for axis in x[1].tolist()):
            thin = thin.unsqueeze(axis)
        return thin
    if op == "Flatten":
        axis = attrs.get("axis", 1)
        return x[0].reshape(prod(x[0].shape[:axis]), prod(x[0].shape[axis:]))
    if op == "Reshape":
        sizes = [int(size) or x[0].shape[axis] for axis, size in enumerate(x[1])]
        return x[0].reshape(sizes)
    return None


def _moving(op: str, attrs: dict[str, Any], x: list[Any]) -> Any:
    """Ops that move elements or sum them."""
    if op == "Transpose":
        return x[0].permute(attrs.get("perm", list(reversed(range(x[0].dim())))))
    if op in ("ReduceSum", "ReduceMean"):
        axes = x[1].tolist() if len(x) > 1 else list(range(x[0].dim()))
        return (torch.sum if op == "ReduceSum" else torch.mean)(x[0], axes, keepdim=bool(attrs.get("keepdims", 1)))
    if op == "GlobalAveragePool":
        return x[0].mean(list(range(2, x[0].dim())), keepdim=True)
    if op == "GlobalMaxPool":
        return x[0].amax(list(range(2, x[0].dim())), keepdim=True)
    if op in ("Resize", "Upsample"):
        grown = x[0]
        for axis, factor in enumerate(x[-1].tolist()):
            grown = grown.repeat_interleave(int(factor), axis)
        return grown
    if op == "Expand":
        return x[0] * torch.ones(x[1].tolist(), dtype=torch.float64)
    if op == "Concat":
        return torch.cat(x, attrs["axis"])
    if op == "Split":
        return torch.split(x[0], x[1].tolist(), attrs["axis"])
    if op == "Slice":
        starts, ends, axes, steps = (t.tolist() for t in x[1:])
        picked = x[0]
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            rows = range(picked.shape[axis])[start : None if end < -1000 else end : step]
            picked = picked.index_select(axis, torch.tensor(list(rows)))
        return picked
    if op == "Pad":
        rank = x[0].dim()
        pads = x[1].tolist()
        order = [pads[axis + side * rank] for axis in reversed(range(rank)) for side in (0, 1)]
        return f.pad(x[0], order, value=x[2].item())
    if op == "Gather":
        axis, index = attrs.get("axis", 0), x[1]
        flat = x[0].index_select(axis, index.reshape(-1) % x[0].shape[axis])
        return flat.reshape([*x[0].shape[:axis], *index.shape, *x[0].shape[axis + 1 :]])
    return None


def _normalizing(op: str, attrs: dict[str, Any], x: list[Any]) -> Any:
    if op == "MatMul":
        return x[0] @ x[1]
    if op == "Softmax":
        return f.softmax(x[0], attrs.get("axis", -1))
    if op == "LogSoftmax":
        return f.log_softmax(x[0], attrs.get("axis", -1))
    if op == "LayerNormalization":
        shape = x[0].shape[attrs.get("axis", -1) :]
        return f.layer_norm(x[0], shape, x[1], x[2] if len(x) > 2 else None, attrs.get("epsilon", 1e-5))
    if op == "LRN":
        # Zeros around the channels: PyTorch's own window is not ONNX's for an even size.
        size = attrs["size"]
        squares = f.pad((x[0] ** 2).movedim(1, -1), ((size - 1) // 2, size // 2)).unfold(-1, size, 1).sum(-1)
        scale = attrs.get("bias", 1.0) + attrs.get("alpha", 1e-4) / size * squares.movedim(-1, 1)
        return x[0] / scale ** attrs.get("beta", 0.75)
    if op == "InstanceNormalization":
        return f.instance_norm(x[0], weight=x[1], bias=x[2], eps=attrs.get("epsilon", 1e-5))
    if op == "GroupNormalization":
        return f.group_norm(x[0], attrs["num_groups"], x[1], x[2], attrs.get("epsilon", 1e-5))
    if op == "BatchNormalization":
        return f.batch_norm(x[0], x[3].detach(), x[4].detach(), x[1], x[2], eps=attrs.get("epsilon", 1e-5))
    return None


def _line(op: str, attrs: dict[str, Any], x: list[Any]) -> torch.Tensor:
    """Convolution and pooling over one axis."""
    pads, strides = tuple(attrs["pads"]), attrs["strides"]
    if op == "Conv":
        return f.conv1d(f.pad(x[0], pads), x[1], x[2], strides, 0, 1, attrs["group"])
    if op == "MaxPool":
        return f.max_pool1d(f.pad(x[0], pads, value=-torch.inf), attrs["kernel_shape"], strides)
    inside = f.avg_pool1d(f.pad(torch.ones_like(x[0]), pads), attrs["kernel_shape"], strides)
    return f.avg_pool1d(f.pad(x[0], pads), attrs["kernel_shape"], strides) / inside


def _average_pool(attrs: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    """Any padding: the sum of each window over the number of elements that count."""
    top, left, bottom, right = attrs.get("pads", [0, 0, 0, 0])
    if attrs.get("ceil_mode"):
        assert (top, left) == (bottom, right)
        counts = bool(attrs.get("count_include_pad", 0))
        return f.avg_pool2d(x, attrs["kernel_shape"], attrs["strides"], (top, left), True, counts)
    pads, kernel, strides = (left, right, top, bottom), attrs["kernel_shape"], attrs.get("strides", [1, 1])
    inside = torch.ones_like(x)
    counted = f.pad(inside, pads, value=float(attrs.get("count_include_pad", 0)))
    return f.avg_pool2d(f.pad(x, pads), kernel, strides) / f.avg_pool2d(counted, kernel, strides)


def _run(op: str, attrs: dict[str, Any], inputs: list[Any]) -> Any:
    if op == "Constant":
        return torch.tensor(numpy_helper.to_array(attrs["value"]).astype(np.float64))
    if op in ("Conv", "MaxPool", "AveragePool") and inputs[0].dim() == 3:
        return _line(op, attrs, inputs)
    for family in (_pointwise, _viewing, _moving, _normalizing):
        known = family(op, attrs, inputs)
        if known is not None:
            return known
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
    if op == "AveragePool":
        return _average_pool(attrs, inputs[0])
    if op == "Gemm":
        a = inputs[0].T if attrs.get("transA") else inputs[0]
        w = inputs[1].T if attrs.get("transB") else inputs[1]
        bias = inputs[2] * attrs.get("beta", 1.0) if len(inputs) > 2 else 0.0
        return a @ w * attrs.get("alpha", 1.0) + bias
    if op == "Relu":
        return torch.relu(inputs[0])
    raise NotImplementedError(op)
