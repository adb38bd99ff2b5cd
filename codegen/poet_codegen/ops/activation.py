"""Activation functions. Where the gradient can be told from the result y, it is, so that x need not live on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from poet_codegen.graph import AttrValue, Node
from poet_codegen.ops.map_kernel import Formula
from poet_codegen.ops.nest import broadcast
from poet_codegen.ops.pointwise import OnnxPointwise, Pointwise, Pull
from poet_codegen.ops.registry import register

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer

_FIRST_OPSET_OF_NUMPY_BROADCASTING = 7
_LARGEST = 3.4028234663852886e38
"""Largest float32: what ONNX's Clip without a limit clips to."""


class LeakyRelu(OnnxPointwise):
    """y = x where x > 0, else alpha x."""

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """dx from y and dy: y has x's sign, unless alpha is negative."""
        told_from = node.outputs[0] if node.float("alpha") >= 0.0 else node.inputs[0]
        tape.add_gradient(node.inputs[0], "LeakyReluGrad", (told_from, grads[0]), dict(node.attrs))


class Clip(OnnxPointwise):
    """y = x within [low, high]; high where low > high."""

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Clip: limits are attributes up to operator set 6, constant inputs from 11 on."""
        limits: dict[str, AttrValue] = {}
        for position, (onnx_name, name, default) in enumerate(
            (("min", "low", -_LARGEST), ("max", "high", _LARGEST)), 1
        ):
            value = node.attrs.get(onnx_name, default)
            if node.has(position):
                value = importer.constant(node, position).ravel()[0]
            limits[name] = min(max(float(value), -_LARGEST), _LARGEST)
        importer.add(node, self.name, [importer.value(node, 0)], limits)


class Gelu(OnnxPointwise):
    """y = x Phi(x), with Phi the normal distribution: by erf, or its approximation by tanh (Hendrycks & Gimpel)."""

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Gelu in either form."""
        form = node.attrs.get("approximate", b"none").decode()
        importer.add(node, "GeluTanh" if form == "tanh" else self.name, [importer.value(node, 0)], {})


def _activation(
    name: str,
    stem: str,
    title: str,
    value: str,
    told_from: str,
    slope: str,
    *,
    declare: tuple[str, ...] = (),
    declare_slope: tuple[str, ...] = (),
    constants: Mapping[str, float] | None = None,
    cycles: str = "elementwise",
    slope_cycles: str = "elementwise",
    made: type[OnnxPointwise] | None = OnnxPointwise,
) -> None:
    """Register y = value(x), and its gradient: a formula of x or y (`told_from`) and dy.

    `made` is None for an op that ONNX does not have under this name.
    """
    numbers = tuple(constants or ())
    forward = Formula(stem, f"{title} over", ("x",), "y", value, declare, numbers, cycles)
    lower = title[0].lower() + title[1:]
    backward = Formula(
        f"{stem}_grad",
        f"Gradient of the {lower} over",
        (told_from, "dy"),
        "dx",
        slope,
        declare_slope,
        numbers,
        slope_cycles,
    )
    pulls = {"x": Pull(f"{name}Grad", (told_from, "dy"))}
    register(made(name, forward, pulls, constants) if made else Pointwise(name, forward, pulls))
    register(Pointwise(f"{name}Grad", backward))


_activation("Relu", "relu", "Rectifier", "{x} <= 0.0f ? 0.0f : {x}", "y", "{y} > 0.0f ? {dy} : 0.0f")
_activation(
    "LeakyRelu",
    "leaky_relu",
    "Leaky rectifier",
    "{x} > 0.0f ? {x} : {alpha} * {x}",
    "y",
    "{y} > 0.0f ? {dy} : {alpha} * {dy}",
    constants={"alpha": 0.01},
    made=LeakyRelu,
)
_activation(
    "Clip",
    "clip",
    "Clipping",
    "raised > {high} ? {high} : raised",
    "y",
    "{y} > {low} && {y} < {high} ? {dy} : 0.0f",
    declare=("const float raised = {x} < {low} ? {low} : {x};",),
    constants={"low": -_LARGEST, "high": _LARGEST},
    made=Clip,
)
_activation(
    "HardSigmoid",
    "hard_sigmoid",
    "Hard sigmoid",
    "line < 0.0f ? 0.0f : line > 1.0f ? 1.0f : line",
    "y",
    "{y} > 0.0f && {y} < 1.0f ? {alpha} * {dy} : 0.0f",
    declare=("const float line = {alpha} * {x} + {beta};",),
    constants={"alpha": 0.2, "beta": 0.5},
)
_activation(
    "HardSwish",
    "hard_swish",
    "Hard swish",
    "{x} * (line < 0.0f ? 0.0f : line > 1.0f ? 1.0f : line)",
    "x",
    "{x} <= -3.0f ? 0.0f : {x} >= 3.0f ? {dy} : {dy} * ({x} * 0.33333334f + 0.5f)",
    declare=("const float line = {x} * 0.16666667f + 0.5f;",),
)
_activation(
    "Sigmoid",
    "sigmoid",
    "Sigmoid",
    "1.0f / (1.0f + poet_expf(-{x}))",
    "y",
    "{dy} * {y} * (1.0f - {y})",
    cycles="sigmoid",
)
_activation(
    "Tanh",
    "tanh",
    "Hyperbolic tangent",
    "poet_tanhf({x})",
    "y",
    "{dy} * (1.0f - {y} * {y})",
    cycles="tanh",
)
# d erf(x)/dx = 2 / sqrt(pi) e^(-x^2)
_activation(
    "Erf",
    "erf",
    "Error function",
    "poet_erff({x})",
    "x",
    "{dy} * (1.1283792f * poet_expf(-{x} * {x}))",
    cycles="tanh",
    slope_cycles="exponential",
)
# dy/dx = Phi(x) + x phi(x)
_activation(
    "Gelu",
    "gelu",
    "GELU",
    "{x} * poet_normal_cdff({x})",
    "x",
    "{dy} * (poet_normal_cdff({x}) + {x} * density)",
    declare_slope=("const float density = 0.3989423f * poet_exp_of_negative(-0.5f * {x} * {x});",),
    cycles="exponential",
    slope_cycles="two_exponentials",
    made=Gelu,
)
# y = x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), and (1 + tanh u) / 2 = 1 / (1 + e^-2u)
_GATE = "const float gate = 1.0f / (1.0f + poet_expf(-1.5957691f * ({x} + 0.044715f * {x} * {x} * {x})));"
_activation(
    "GeluTanh",
    "gelu_tanh",
    "GELU by tanh",
    "{x} * gate",
    "x",
    "{dy} * (gate + {x} * gate * (1.0f - gate) * slope)",
    declare=(_GATE,),
    declare_slope=(_GATE, "const float slope = 1.5957691f * (1.0f + 0.134145f * {x} * {x});"),
    cycles="sigmoid",
    slope_cycles="two_exponentials",
    made=None,
)


class PRelu(OnnxPointwise):
    """y = x, or slope x below 0; the slope is a parameter that broadcasts to x."""

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX PRelu."""
        x, slope = importer.value(node, 0), importer.value(node, 1)
        if broadcast([x.shape, slope.shape]) != x.shape or node.opset < _FIRST_OPSET_OF_NUMPY_BROADCASTING:
            raise node.refuse(
                f"slopes of shape {list(slope.shape)} for {list(x.shape)}",
                f"They must broadcast to x as in operator set {_FIRST_OPSET_OF_NUMPY_BROADCASTING}.",
            )
        importer.add(node, self.name, [x, slope], {})


register(
    PRelu(
        "PRelu",
        Formula("prelu", "Rectifier with slopes of", ("x", "slope"), "y", "{x} > 0.0f ? {x} : {slope} * {x}"),
        {"x": Pull("PReluGrad", ("x", "slope", "dy")), "slope": Pull("PReluSlopeGrad", ("x", "dy"))},
        supported="a slope that broadcasts to x",
    )
)
register(
    Pointwise(
        "PReluGrad",
        Formula(
            "prelu_grad",
            "Gradient of the rectifier with slopes of",
            ("x", "slope", "dy"),
            "dx",
            "{x} > 0.0f ? {dy} : {slope} * {dy}",
        ),
    )
)
register(
    Pointwise(
        "PReluSlopeGrad",
        Formula(
            "prelu_slope_grad", "Gradient of the slopes of", ("x", "dy"), "dslope", "{x} > 0.0f ? 0.0f : {x} * {dy}"
        ),
    )
)
