"""The blocked form of whatever is a matrix product: how operands in C meet the rows and columns of m4f/products.py."""

from __future__ import annotations

from dataclasses import dataclass, replace

from poet_codegen.m4f.outer import blocked_outer
from poet_codegen.m4f.product_blocks import blocked_product
from poet_codegen.m4f.products import Product, Start
from poet_codegen.ops.registry import Blocked
from poet_codegen.ops.update import Sink


@dataclass(frozen=True)
class ProductForm:
    """C of the function around the blocks. With several matrices `m` is the number of the one at hand."""

    left: str
    """Expressions: where a and b begin, and y; the start of the sums, '' without."""
    right: str
    target: str
    parameters: str
    start: str = ""
    matrices: int = 1
    before: tuple[str, ...] = ()
    """What to do before the blocks."""
    setup: tuple[str, ...] = ()
    body: str = ""
    """What becomes of the element `at` of the target, given its `sum`, where the sums end in a buffer."""
    first: str = ""
    """Of a buffer's sums: the index of the matrix's first element, as 'number + '."""


def product_form(name: str, product: Product, form: ProductForm) -> Blocked | None:
    """templates/kernels/product_m4f.c.j2; None for a shape without blocks."""
    blocks, compact = blocked_product(product), blocked_product(replace(product, compact=True))
    if blocks is None:
        return None
    values = {"name": name, "f": form}
    smaller = Blocked("product_m4f.c.j2", {**values, "b": compact}, fuses=True) if compact else None
    return Blocked("product_m4f.c.j2", {**values, "b": blocks}, smaller, fuses=True)


def gradient_form(
    name: str, product: Product, form: ProductForm, sink: Sink, matrix_elements: int = 0
) -> Blocked | None:
    """The blocked form of a gradient: its sums go into memory, into the SGD update, or through C into any other sink.

    `form.parameters` are those of the gradient's inputs; of several matrices each has `matrix_elements` of the target.
    """
    at = f"m * {matrix_elements} + " if form.matrices > 1 else ""
    texts = sink.texts("sum", "at")
    full = ProductForm(
        form.left,
        form.right,
        f"{sink.target} + {at}".removesuffix(" + "),
        f"{form.parameters}, {texts['into']}",
        matrices=form.matrices,
        setup=sink.setup,
        body=str(texts["body"]),
        first=at,
    )
    # One product alone, which is no sum that begins with 0: that makes 0 of -0.
    is_outer = product.start is Start.PRODUCT and product.depth * form.matrices == 1
    calls = blocked_outer(product.rows, product.columns, product.end) if is_outer else None
    if calls:
        return Blocked("outer_m4f.c.j2", {"name": name, "calls": calls, "f": full}, fuses=True)
    return product_form(name, product, full)
