"""Arithmetic an element, with numpy's broadcasting: Add, Sub, Mul, Div, Neg, Pow, Exp, Log, Sqrt.

Gradients read the result rather than the operands wherever the formula allows it, so that operands need not live on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from poet_codegen.ops.map_kernel import Formula
from poet_codegen.ops.pointwise import SUM_TO, OnnxPointwise, Pointwise, Pull, load_pointwise
from poet_codegen.ops.registry import register

if TYPE_CHECKING:
    from poet_codegen.onnx_import import ImportedNode, Importer

_BROADCAST = "numpy's broadcasting; one-element constants become numbers, which do not train"


class Pow(OnnxPointwise):
    """y = x^p; constant exponents 2 and 1/2 have kernels of their own."""

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Pow."""
        exponent = importer.literal(node, 1)
        special = {2.0: "Square", 0.5: "Sqrt"}.get(exponent) if exponent is not None else None
        if special and not importer.is_constant(node.inputs[0]):
            importer.add(node, special, [importer.value(node, 0)], {})
        elif exponent is None and importer.is_constant(node.inputs[1]) and not importer.is_parameter(node.inputs[1]):
            # ONNX allows integers here, alone among the operators that train.
            held = importer.hold(node, "exponent", importer.constant(node, 1).astype(np.float32))
            importer.add(node, self.name, [importer.value(node, 0), held], {})
        else:
            load_pointwise(importer, node, self.name, ("x", "p"), {})


def _unary(name: str, value: str, pull: Pull, title: str, cycles: str) -> OnnxPointwise:
    return OnnxPointwise(name, Formula(name.lower(), title, ("x",), "y", value, cycles=cycles), {"x": pull})


def _binary(name: str, sign: str, title: str, pulls: dict[str, Pull], cycles: str = "elementwise") -> OnnxPointwise:
    formula = Formula(name.lower(), title, ("a", "b"), "c", f"{{a}} {sign} {{b}}", cycles=cycles)
    return OnnxPointwise(name, formula, pulls, supported=_BROADCAST)


_DY = Pull(SUM_TO, ("dy",))

# c = a + b is also how gradients of a value with several readers are summed; both inputs get dy itself.
register(_binary("Add", "+", "Sum of two tensors of", {"a": _DY, "b": _DY}))
register(_binary("Sub", "-", "Difference of two tensors of", {"a": _DY, "b": Pull("Neg", ("dy",))}))
register(
    _binary("Mul", "*", "Product of two tensors of", {"a": Pull("Mul", ("dy", "b")), "b": Pull("Mul", ("dy", "a"))})
)
# d(a / b)/db = -y / b
register(
    _binary(
        "Div",
        "/",
        "Quotient of two tensors of",
        {"a": Pull("Div", ("dy", "b")), "b": Pull("DivisorGrad", ("y", "b", "dy"))},
        "divide",
    )
)
register(
    Pointwise(
        "DivisorGrad",
        Formula(
            "divisor_grad", "Gradient of a divisor of", ("y", "b", "dy"), "db", "-{dy} * {y} / {b}", cycles="divide"
        ),
    )
)
register(_unary("Neg", "-{x}", Pull("Neg", ("dy",)), "Negation of", "elementwise"))
register(_unary("Exp", "poet_expf({x})", Pull("Mul", ("dy", "y")), "Exponential of", "exponential"))
register(_unary("Log", "poet_logf({x})", Pull("Div", ("dy", "x")), "Logarithm of", "exponential"))
register(_unary("Sqrt", "poet_sqrtf({x})", Pull("SqrtGrad", ("y", "dy")), "Square root of", "root"))
register(
    Pointwise(
        "SqrtGrad",
        Formula("sqrt_grad", "Gradient of the root of", ("y", "dy"), "dx", "0.5f * {dy} / {y}", cycles="divide"),
    )
)
register(
    Pointwise(
        "Square",
        Formula("square", "Square of", ("x",), "y", "{x} * {x}"),
        {"x": Pull("SquareGrad", ("x", "dy"))},
    )
)
register(
    Pointwise("SquareGrad", Formula("square_grad", "Gradient of the square of", ("x", "dy"), "dx", "2.0f * {x} * {dy}"))
)
register(
    Pow(
        "Pow",
        Formula("pow", "Power of", ("x", "p"), "y", "poet_powf({x}, {p})", cycles="power"),
        {"x": Pull("PowGrad", ("x", "p", "dy")), "p": Pull("ExponentGrad", ("x", "y", "dy"))},
        supported=_BROADCAST,
    )
)
register(
    Pointwise(
        "PowGrad",
        Formula(
            "pow_grad",
            "Gradient of a power's base of",
            ("x", "p", "dy"),
            "dx",
            "{dy} * {p} * poet_powf({x}, {p} - 1.0f)",
            cycles="power",
        ),
    )
)
# d(x^p)/dp = y ln x; as in PyTorch 0 at x = 0, where the power is constant for p > 0.
register(
    Pointwise(
        "ExponentGrad",
        Formula(
            "exponent_grad",
            "Gradient of a power's exponent of",
            ("x", "y", "dy"),
            "dp",
            "{x} == 0.0f ? 0.0f : {dy} * {y} * poet_logf({x})",
            cycles="exponential",
        ),
    )
)
