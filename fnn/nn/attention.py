"""Which implementation of attention torch uses, `torch.nn.attention`; here there is one for each platform."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from typing import Any

__all__ = ["SDPBackend", "sdpa_kernel"]


class SDPBackend(enum.IntEnum):
    """The implementations of torch's `scaled_dot_product_attention`."""

    ERROR = -1
    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    CUDNN_ATTENTION = 3
    OVERRIDEABLE = 4


@contextlib.contextmanager
def sdpa_kernel(backends: list[SDPBackend] | SDPBackend, set_priority: bool = False) -> Iterator[dict[str, Any]]:
    """A `with` block that asks for implementations of `scaled_dot_product_attention`; it changes nothing here.

    fnn takes, for each platform and shape, the fastest one that computes what torch does: all of torch's agree up to
    rounding, so a model means the same under any of them.

    Args:
        backends: one, or a list of those that are welcome.
        set_priority: whether the list has the best first.

    Raises:
        AssertionError: where it is neither.

    Example:
        >>> import jax.numpy as jnp
        >>> import fnn.nn.functional as F
        >>> x = jnp.ones((1, 2, 4))
        >>> with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        ...     F.scaled_dot_product_attention(x, x, x).shape
        (1, 2, 4)
    """
    if not isinstance(backends, list | SDPBackend):
        raise AssertionError(
            f"Backend must be an instance of SDPBackend or a list of SDPBackend instances, got {type(backends).__name__}"
        )
    yield {}
