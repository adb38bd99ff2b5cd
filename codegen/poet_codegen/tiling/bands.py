"""Bands of rows of a convolution: which rows of the other image each band needs, and with how much padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from poet_codegen.ops.window import Window


@dataclass(frozen=True)
class Bands:
    """Some bands of equal height that lie below each other and look alike to a kernel."""

    first: int
    """Number of the first of them."""
    count: int
    source_row: int
    """First row of the other image that the first of them needs."""
    source_step: int
    """Rows of the other image from one band to the next."""
    source_rows: int
    again_rows: int
    """So many rows at the top were already needed by the band before."""
    window: Window
    """The whole operation's, with the padding that these bands see."""


def forward_bands(window: Window, height: int, out_height: int, rows: int) -> list[Bands] | None:
    """Bands of `rows` rows of y, which divide `out_height`; the other image is x of `height`.

    Rows that no band needs go to the band above, so that all of x is read, and its checksum with it. None where a band
    needs no row of x.
    """
    step, reach = rows * window.strides[0], window.dilations[0] * (window.kernel[0] - 1)

    def one(number: int) -> tuple[int, int, int, int]:
        top = number * step - window.pads[0]
        end = top + (rows - 1) * window.strides[0] + reach + 1
        return max(top, 0), min(end, height), max(-top, 0), max(end - height, 0)

    needed = [one(number) for number in range(out_height // rows)]
    follows = [*(first for first, *_ in needed[1:]), height]
    found = [
        (first, max(end, to), above, below) for (first, end, above, below), to in zip(needed, follows, strict=True)
    ]
    return _joined(found, step, window)


def backward_bands(window: Window, height: int, out_height: int, rows: int) -> list[Bands] | None:
    """Bands of `rows` rows of dx, which divide `height`; the other image is dy of `out_height`.

    None where bands are no multiple of the stride, or one needs no row of dy, or the rows that it needs are not those
    of a convolution of its own.
    """
    stride, reach = window.strides[0], window.dilations[0] * (window.kernel[0] - 1)
    if rows % stride:
        return None
    found = []
    for number in range(height // rows):
        top = number * rows + window.pads[0]
        first = max(-(-(top - reach) // stride), 0)
        end = min((top + rows - 1) // stride + 1, out_height)
        pad = top - first * stride
        count = end - first
        below = max((count - 1) * stride + reach + 1 - rows - pad, 0)
        if count < 1 or pad < 0 or (rows + pad + below - reach - 1) // stride + 1 != count:
            return None
        found.append((first, end, pad, below))
    return _joined(found, rows // stride, window)


def _joined(bands: list[tuple[int, int, int, int]], step: int, window: Window) -> list[Bands] | None:
    """Bands given as (first row, end row, padding above, padding below)."""
    if any(end <= first for first, end, _, _ in bands):
        return None
    return list(_runs(bands, step, window))


def _runs(bands: list[tuple[int, int, int, int]], step: int, window: Window) -> Iterator[Bands]:
    start = 0
    while start < len(bands):
        first, end, above, below = bands[start]
        again = max(bands[start - 1][1] - first, 0) if start else 0
        count = 1
        while start + count < len(bands):
            at, to, *pads = bands[start + count]
            alike = (at - count * step, to - count * step, *pads) == (first, end, above, below)
            if not alike or max(bands[start + count - 1][1] - at, 0) != again:
                break
            count += 1
        pads4 = (above, window.pads[1], below, window.pads[3])
        seen = Window(window.kernel, window.strides, window.dilations, pads4)
        yield Bands(start, count, first, step, end - first, again, seen)
        start += count
