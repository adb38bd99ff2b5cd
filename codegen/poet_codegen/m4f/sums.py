"""Sums of whole channels, several at a time so that no addition waits for the one before."""

from __future__ import annotations

from dataclasses import dataclass

from poet_codegen.m4f.pipeline import REGISTERS, Assembly, register_list

_SIDE_BY_SIDE = (4, 2, 1)
_LARGEST_STEP = 1 << 24
_MOST_ROUNDS = 65535


@dataclass(frozen=True)
class ChannelSums:
    """A micro-kernel: the sums of `channels` channels of [images][...][pixels], in the order (image, pixel)."""

    channels: int
    pixels: int
    images: int
    image_step: int
    """Elements from an image to the next."""

    @property
    def pointers(self) -> tuple[str, ...]:
        """Operands that walk along the channels."""
        return tuple(f"x{c}" for c in range(self.channels))

    def lines(self) -> list[str]:
        """The assembly. Operands: x0.., sums, count, and image where there are several."""
        asm = Assembly(())
        asm.line("mov %[count], #0")
        for c in range(self.channels):
            asm.line(f"vmov s{c}, %[count]")
        if self.images > 1:
            asm.line(f"movw %[image], #{self.images}")
            asm.line("2:")
        most = REGISTERS // self.channels - 1
        loads = -(-self.pixels // most)
        step = -(-self.pixels // loads)
        rounds, rest = divmod(self.pixels, step)
        if rounds > 1:
            asm.line(f"movw %[count], #{rounds}")
            asm.line("1:")
        self._round(asm, step)
        if rounds > 1:
            asm.line("subs %[count], %[count], #1")
            asm.line("bne 1b")
        if rest:
            self._round(asm, rest)
        if self.images > 1:
            for name in self.pointers:
                asm.far_step(name, self.image_step - self.pixels, "count")
            asm.line("subs %[image], %[image], #1")
            asm.line("bne 2b")
        asm.line(f"vstmia %[sums], {register_list(0, self.channels)}")
        return asm.lines

    def _round(self, asm: Assembly, pixels: int) -> None:
        for c, name in enumerate(self.pointers):
            asm.line(f"vldmia %[{name}]!, {register_list(self.channels + c * pixels, pixels)}")
        for i in range(pixels):
            for c in range(self.channels):
                asm.line(f"vadd.f32 s{c}, s{c}, s{self.channels + c * pixels + i}")


@dataclass(frozen=True)
class SumLoop:
    """Channels [first, first + count), a block at a time."""

    block: ChannelSums
    first: int
    count: int


def blocked_sums(images: int, channels: int, pixels: int) -> tuple[SumLoop, ...] | None:
    """The blocks that sum dy [images][channels][pixels] over images and pixels; None for a shape without them."""
    if pixels == 1 or pixels > _MOST_ROUNDS or images > _MOST_ROUNDS or channels * pixels >= _LARGEST_STEP:
        return None
    loops, first = [], 0
    for width in _SIDE_BY_SIDE:
        count = (channels - first) // width * width
        if count:
            loops.append(SumLoop(ChannelSums(width, pixels, images, channels * pixels), first, count))
        first += count
    return tuple(loops)
