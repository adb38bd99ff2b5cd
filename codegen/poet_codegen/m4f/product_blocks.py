"""Which blocks a matrix product takes, and where each is called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from poet_codegen.m4f.pipeline import REGISTERS, TEMPORARIES, two_sizes
from poet_codegen.m4f.products import Product, ProductBlock

_MOST_ROWS = 6
_MOST_COLUMNS = 20
_MOST_DEPTH_STEP = 12
_REPEATS = (1, 2, 3, 4, 8)
_LARGEST_PRODUCT_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class ProductCall:
    """A micro-kernel, for columns [first, first + count) a block at a time."""

    kernel: int
    first: int
    count: int


@dataclass(frozen=True)
class ProductRows:
    """Rows [first, first + count), `step` at a time, and the micro-kernels that their columns take."""

    first: int
    count: int
    step: int
    calls: tuple[ProductCall, ...]


@dataclass(frozen=True)
class BlockedProduct:
    """All that the template needs."""

    product: Product
    kernels: tuple[ProductBlock, ...]
    rows: tuple[ProductRows, ...]

    @property
    def most_sums(self) -> int:
        """Of any micro-kernel."""
        return max(kernel.rows * kernel.columns for kernel in self.kernels)


@cache
def blocked_product(product: Product) -> BlockedProduct | None:
    """The blocks of a product; None for a shape that they do not cover."""
    extents = (product.columns, product.depth, product.rows, product.y_step, product.images)
    steps = (product.a.step, product.b.step, product.a.image, product.b.image, product.depth * product.a.step)
    if min(product.columns, product.depth, product.rows) < 1 or max(extents) >= 1 << 16:
        return None
    if max(*steps, product.depth * product.b.step) >= _LARGEST_PRODUCT_ELEMENTS:
        return None
    best: tuple[float, list[tuple[int, int, list[tuple[ProductBlock, int]]]]] | None = None
    for parts in two_sizes(product.rows, _MOST_ROWS):
        cycles, plan = 0.0, []
        for height, times in parts:
            found = _columns(product, height)
            if found is None:
                break
            cycles += found[0] * times
            plan.append((height, times, found[1]))
        # A micro-kernel more is code.
        cycles *= 1.0 + _penalty(product) * (sum(len(blocks) for _, _, blocks in plan) - 1)
        if len(plan) == len(parts) and (best is None or cycles < best[0]):
            best = (cycles, plan)
    if best is None:
        return None
    kernels: list[ProductBlock] = []
    loops: list[ProductRows] = []
    row = 0
    for height, times, blocks in best[1]:
        column, calls = 0, []
        for block, count in blocks:
            if block not in kernels:
                kernels.append(block)
            calls.append(ProductCall(kernels.index(block), column, count * block.columns))
            column += count * block.columns
        loops.append(ProductRows(row, times * height, height, tuple(calls)))
        row += times * height
    return BlockedProduct(product, tuple(kernels), tuple(loops))


@cache
def _columns(product: Product, height: int) -> tuple[float, list[tuple[ProductBlock, int]]] | None:
    """Cycles of one row of blocks, and which blocks it takes how often."""
    best: tuple[float, list[tuple[ProductBlock, int]]] | None = None
    # A block does not depend on how many of them there are: tiles of one layer share the search.
    any_size = replace(product, rows=0, columns=0)
    for parts in two_sizes(product.columns, _MOST_COLUMNS):
        blocks = [(_best_block(any_size, height, width), times) for width, times in parts]
        chosen = [(block, times) for block, times in blocks if block is not None]
        if len(chosen) < len(blocks):
            continue
        cycles = sum(block.cycles() * times for block, times in chosen) * (1.0 + _penalty(product) * (len(chosen) - 1))
        if best is None or cycles < best[0]:
            best = (cycles, chosen)
    return best


@cache
def _best_block(product: Product, height: int, width: int) -> ProductBlock | None:
    if height * width > REGISTERS - TEMPORARIES:
        return None
    blocks = [
        ProductBlock(product, height, width, unroll, repeat)
        for unroll in range(1, min(_MOST_DEPTH_STEP, product.depth) + 1)
        for repeat in _REPEATS
    ]
    fitting = [block for block in blocks if block.fits()]
    return min(fitting, key=lambda block: (block.cycles(), block.code_bytes)) if fitting else None


def _penalty(product: Product) -> float:
    """What a micro-kernel more is thought to cost, as a share of all cycles."""
    return 0.05 if product.compact else 0.005
