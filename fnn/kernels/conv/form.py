"""What a convolution is, apart from its batch and its channels."""

from __future__ import annotations

from typing import NamedTuple


class Form(NamedTuple):
    """The static numbers of T(x, w, y), for x (N, C, *size), w (O, C / groups, *kernel) and y (N, O, *out)."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]  # zeros before and behind each axis of x; a negative number cuts off
    dilation: tuple[int, ...]
    groups: int

    @property
    def span(self) -> tuple[int, ...]:
        """How far a kernel reaches, dilation included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def out(self) -> tuple[int, ...]:
        """The places of y."""
        parts = zip(self.size, self.pads, self.span, self.stride, strict=True)
        return tuple((size + sum(pad) - span) // stride + 1 for size, pad, span, stride in parts)


class Extent(NamedTuple):
    """The sizes that vary from call to call."""

    batch: int
    channels: int
    outputs: int
