"""Weight gradients of convolutions: the sums of several taps stay in registers while all pixels go by.

A block is `channels_out` output channels x some rows of the window x the window's columns, for one input channel. Its
pixels are taken in the order (image, row, column), which is that of the plain kernel; a tap leaves out the pixels at
which it is outside the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby

from poet_codegen.m4f.pipeline import FLOAT_BYTES, REGISTERS, TEMPORARIES, Assembly, register_list
from poet_codegen.m4f.rows import Extent
from poet_codegen.ops.window import Window

_CHANNELS_OUT = (4, 2, 1)
_MOST_PIXELS = 8
_LEAST_STREAM = 2
FAST_BYTES = 12288
COMPACT_BYTES = 2048
"""Of products' code, for all micro-kernels together."""
_LARGEST_STEP_BYTES = 4096
_LARGEST_COUNT = 65536


@dataclass(frozen=True)
class _Product:
    """dy at `pixel` x the input at `column` (from the chunk's first one), for the window's column `tap`."""

    column: int
    tap: int
    pixel: int


@dataclass(frozen=True)
class _Chunk:
    """Neighbouring pixels of dy and the input columns they meet; `repeat` times one after the other."""

    pixels: int
    first_column: int
    columns: int
    products: tuple[_Product, ...]
    repeat: int


@dataclass(frozen=True)
class _Rows:
    """Rows of dy for which the same rows of the window are inside the image."""

    inside: tuple[int, ...]
    """Rows of the block, from its first one; of none, dy's rows are passed over."""
    first_row: int
    """Of the input, for the first of them."""
    count: int


@dataclass(frozen=True)
class WeightBlock:
    """A micro-kernel: the sums of `channels_out` channels and window rows [first, first + rows)."""

    window: Window
    x: Extent
    dy: Extent
    batch: int
    image_step: int
    """Elements from an image of x to the next."""
    gradient_step: int
    """Elements from an image of dy to the next."""
    channels_out: int
    first: int
    rows: int
    pixels: int
    """Of a chunk."""
    continues: bool
    """Sums start from what `sums` holds."""

    @property
    def taps(self) -> int:
        """Sums of one channel."""
        return self.rows * self.window.kernel[1]

    @property
    def _stream(self) -> int:
        return REGISTERS - TEMPORARIES - self.channels_out * (self.taps + self.pixels)

    def fits(self) -> bool:
        """Registers and immediates are enough."""
        step = self.x.width * (self.window.strides[0] + self.rows * self.window.dilations[0] + 1)
        return (
            self._stream >= _LEAST_STREAM
            and step * FLOAT_BYTES < _LARGEST_STEP_BYTES
            and max(self.image_step, self.gradient_step) < _LARGEST_COUNT
        )

    def cost(self) -> tuple[float, int]:
        """(cycles of loads and products of one image and input channel, bytes of code)."""
        cycles, code = 0.0, 0
        for rows in self._row_groups():
            for chunk in self._chunks():
                products = self.channels_out * len(chunk.products) * len(rows.inside)
                streams = -(-chunk.columns // self._stream)
                loads = self.channels_out * (1 + self.pixels) + len(rows.inside) * (chunk.columns + streams + 1)
                cycles += rows.count * chunk.repeat * (2 * products + loads + _LOOP_CYCLES)
                code += 8 * products + 4 * len(rows.inside) * (streams + 1) + 4 * self.channels_out
        return cycles, code

    def lines(self, fused: bool) -> list[str]:
        """The assembly. Operands: x, dy0.., sums, pixel, row, and image where there are several."""
        gradients = self.channels_out * self.taps
        inputs = gradients + self.channels_out * self.pixels
        asm = Assembly(range(REGISTERS - TEMPORARIES, REGISTERS), fused)
        if self.continues:
            asm.line(f"vldmia %[sums], {register_list(0, gradients)}")
        else:
            asm.line("mov %[pixel], #0")
            asm.line("vmov s0, %[pixel]")
            for register in range(1, gradients):
                asm.line(f"vmov.f32 s{register}, s0")
        if self.batch > 1:
            asm.line(f"mov %[image], #{self.batch}")
            asm.line("1:")
        # Where the pointer is, in elements from x.
        at = 0
        for number, rows in enumerate(self._row_groups()):
            at = self._rows(asm, rows, 10 * (number + 1), at, gradients, inputs)
        if self.batch > 1:
            self._far_step(asm, "x", self.image_step - at)
            for o in range(self.channels_out):
                self._far_step(asm, f"dy{o}", self.gradient_step - self.dy.plane)
            asm.line("subs %[image], %[image], #1")
            asm.line("bne 1b")
        asm.line(f"vstmia %[sums], {register_list(0, gradients)}")
        return asm.lines

    def _rows(self, asm: Assembly, rows: _Rows, label: int, at: int, gradients: int, inputs: int) -> int:
        if not rows.inside:
            for o in range(self.channels_out):
                self._far_step(asm, f"dy{o}", rows.count * self.dy.width)
            return at
        chunks = self._chunks()
        start = rows.first_row * self.x.width + chunks[0].first_column
        self._far_step(asm, "x", start - at)
        if rows.count > 1:
            asm.line(f"movw %[row], #{rows.count}")
            asm.line(f"{label}:")
        for number, chunk in enumerate(chunks):
            if chunk.repeat > 1:
                asm.line(f"movw %[pixel], #{chunk.repeat}")
                asm.line(f"{label + 1 + number}:")
            self._chunk(asm, chunk, rows, gradients, inputs)
            if chunk.repeat > 1:
                self._near_step(asm, chunk, rows, chunk.pixels * self.window.strides[1])
                asm.line("subs %[pixel], %[pixel], #1")
                asm.line(f"bne {label + 1 + number}b")
                after = chunk.first_column + chunk.repeat * chunk.pixels * self.window.strides[1]
                following = chunks[number + 1].first_column if number + 1 < len(chunks) else chunks[0].first_column
                more = 0 if number + 1 < len(chunks) else self.window.strides[0] * self.x.width
                asm.move_pointer("x", (following - after + more) * FLOAT_BYTES)
            elif number + 1 < len(chunks):
                self._near_step(asm, chunk, rows, chunks[number + 1].first_column - chunk.first_column)
            else:
                step = self.window.strides[0] * self.x.width + chunks[0].first_column - chunk.first_column
                self._near_step(asm, chunk, rows, step)
        if rows.count > 1:
            asm.line("subs %[row], %[row], #1")
            asm.line(f"bne {label}b")
        return start + rows.count * self.window.strides[0] * self.x.width

    def _near_step(self, asm: Assembly, chunk: _Chunk, rows: _Rows, columns: int) -> None:
        """From the end of a chunk to the first row of the window, `columns` behind the chunk's first column."""
        back = (rows.inside[-1] - rows.inside[0]) * self.window.dilations[0] * self.x.width
        asm.move_pointer("x", (columns - chunk.columns - back) * FLOAT_BYTES)

    def _far_step(self, asm: Assembly, pointer: str, elements: int) -> None:
        if elements == 0:
            return
        size = abs(elements) * FLOAT_BYTES
        asm.line(f"movw %[row], #{size & 0xFFFF}")
        if size >> 16:
            asm.line(f"movt %[row], #{size >> 16}")
        asm.line(f"{'add' if elements > 0 else 'sub'} %[{pointer}], %[{pointer}], %[row]")

    def _chunk(self, asm: Assembly, chunk: _Chunk, rows: _Rows, gradients: int, inputs: int) -> None:
        width = self.window.kernel[1]
        for o in range(self.channels_out):
            asm.line(f"vldmia %[dy{o}]!, {register_list(gradients + o * self.pixels, chunk.pixels)}")
        for number, row in enumerate(rows.inside):
            done = 0
            while done < chunk.columns:
                count = min(self._stream, chunk.columns - done)
                asm.line(f"vldmia %[x]!, {register_list(inputs, count)}")
                for product in chunk.products:
                    if done <= product.column < done + count:
                        for o in range(self.channels_out):
                            total = o * self.taps + row * width + product.tap
                            gradient = gradients + o * self.pixels + product.pixel
                            asm.add_product(total, gradient, inputs + product.column - done)
                done += count
            if number + 1 < len(rows.inside):
                step = (rows.inside[number + 1] - row) * self.window.dilations[0] * self.x.width
                asm.move_pointer("x", (step - chunk.columns) * FLOAT_BYTES)
        asm.finish_sums()

    def _row_groups(self) -> list[_Rows]:
        w = self.window
        taken = []
        for oy in range(self.dy.height):
            top = oy * w.strides[0] - w.pads[0]
            rows = [r for r in range(self.rows) if 0 <= top + (self.first + r) * w.dilations[0] < self.x.height]
            if rows:
                taken.append((tuple(rows), top + (self.first + rows[0]) * w.dilations[0]))
            else:
                taken.append(((), 0))
        groups = [(inside, [first for _, first in run]) for inside, run in groupby(taken, key=lambda row: row[0])]
        return [_Rows(inside, firsts[0], len(firsts)) for inside, firsts in groups]

    def _chunks(self) -> list[_Chunk]:
        return list(_merged(self._single_chunks()))

    def _single_chunks(self) -> Iterator[_Chunk]:
        w = self.window
        for first in range(0, self.dy.width, self.pixels):
            pixels = min(self.pixels, self.dy.width - first)
            met = [
                ((first + p) * w.strides[1] + k * w.dilations[1] - w.pads[1], k, p)
                for p in range(pixels)
                for k in range(w.kernel[1])
            ]
            inside = sorted((c, k, p) for c, k, p in met if 0 <= c < self.x.width)
            if not inside:
                yield _Chunk(pixels, 0, 0, (), 1)
                continue
            low, high = inside[0][0], inside[-1][0]
            products = tuple(_Product(c - low, k, p) for c, k, p in inside)
            yield _Chunk(pixels, low, high - low + 1, products, 1)


def _merged(chunks: Iterator[_Chunk]) -> Iterator[_Chunk]:
    def shape(chunk: _Chunk) -> tuple[object, ...]:
        return (chunk.pixels, chunk.columns, chunk.products)

    for _, run in groupby(chunks, key=shape):
        same = list(run)
        yield _Chunk(same[0].pixels, same[0].first_column, same[0].columns, same[0].products, len(same))


@dataclass(frozen=True)
class WeightLoop:
    """Output channels [first, first + count) of a group, with the micro-kernels for all rows of the window."""

    first: int
    count: int
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class BlockedWeights:
    """All that the template needs: the micro-kernels, and which channels take which."""

    kernels: tuple[WeightBlock, ...]
    loops: tuple[WeightLoop, ...]

    @property
    def most_sums(self) -> int:
        """Of any micro-kernel."""
        return max(kernel.channels_out * kernel.taps for kernel in self.kernels)


@cache
def blocked_weights(
    window: Window,
    x: Extent,
    dy: Extent,
    batch: int,
    image_step: int,
    gradient_step: int,
    continues: bool,
    most_bytes: int,
) -> BlockedWeights | None:
    """The blocks of a convolution's weight gradient, one group; None for a shape that `most_bytes` do not cover."""
    kernels: list[WeightBlock] = []
    loops: list[WeightLoop] = []
    first = 0
    while first < dy.channels:
        best: tuple[float, list[WeightBlock]] | None = None
        for channels in _CHANNELS_OUT:
            if channels > dy.channels - first:
                continue
            for height in range(1, window.kernel[0] + 1):
                for pixels in range(1, min(_MOST_PIXELS, dy.width) + 1):
                    blocks = [
                        WeightBlock(
                            window,
                            x,
                            dy,
                            batch,
                            image_step,
                            gradient_step,
                            channels,
                            row,
                            min(height, window.kernel[0] - row),
                            pixels,
                            continues,
                        )
                        for row in range(0, window.kernel[0], height)
                    ]
                    if not all(block.fits() for block in blocks):
                        continue
                    costs = [block.cost() for block in blocks]
                    if sum(code for _, code in costs) > most_bytes:
                        continue
                    cycles = sum(cycles for cycles, _ in costs) / channels
                    if best is None or cycles < best[0]:
                        best = (cycles, blocks)
        if best is None:
            return None
        channels = best[1][0].channels_out
        count = (dy.channels - first) // channels * channels
        kernels += best[1]
        numbers = tuple(range(len(kernels) - len(best[1]), len(kernels)))
        loops.append(WeightLoop(first, count, numbers))
        first += count
    return BlockedWeights(tuple(kernels), tuple(loops))


_LOOP_CYCLES = 4
"""Of a chunk: count, branch, pointer."""
