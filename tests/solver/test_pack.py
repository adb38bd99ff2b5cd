"""Arena offsets: no overlap, at the peak, homes where they must be."""

from __future__ import annotations

import random

import pytest
from poet_solver.pack import Rectangle, pack, peak_bytes


def overlaps(rectangles: list[Rectangle], offsets: list[int]) -> bool:
    return any(
        a.meets(b) and x < y + b.size_bytes and y < x + a.size_bytes
        for i, (a, x) in enumerate(zip(rectangles, offsets, strict=True))
        for b, y in zip(rectangles[:i], offsets, strict=False)
    )


@pytest.mark.parametrize("seed", range(30))
def test_random_live_ranges(seed: int) -> None:
    rng = random.Random(seed)
    rectangles = []
    for _ in range(rng.randint(1, 25)):
        start = rng.randrange(20)
        rectangles.append(Rectangle(4 * rng.randint(0, 6), [[start, start + rng.randint(1, 8)]]))
    peak = peak_bytes(rectangles)
    offsets = pack(rectangles, peak + 24, 10.0)
    assert offsets is not None and not overlaps(rectangles, offsets)
    assert all(at % 4 == 0 and at + r.size_bytes <= peak + 24 for at, r in zip(offsets, rectangles, strict=True))


def test_fixed_offsets_are_kept() -> None:
    rectangles = [Rectangle(8, [[0, 10]], fixed=4), Rectangle(4, [[0, 5]]), Rectangle(4, [[2, 9]])]
    offsets = pack(rectangles, 16, 5.0)
    assert offsets is not None and offsets[0] == 4 and not overlaps(rectangles, offsets)


def test_what_cannot_be_packed_is_refused() -> None:
    assert pack([Rectangle(4, [[0, 2]], fixed=2), Rectangle(4, [[0, 2]])], 7, 5.0) is None
    assert pack([Rectangle(4, [[0, 2]], fixed=20)], 7, 5.0) is None


def test_a_joined_rectangle_keeps_one_offset_over_its_spans() -> None:
    rectangles = [Rectangle(4, [[0, 2], [6, 9]]), Rectangle(8, [[2, 6]]), Rectangle(4, [[1, 8]])]
    offsets = pack(rectangles, 12, 5.0)
    assert offsets is not None and not overlaps(rectangles, offsets)
