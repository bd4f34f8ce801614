"""How hot operations reach XLA. A kernel assumes checked arguments; only `fnn.functional` imports it.

A file of a family holds its algorithms and, at its head, the rule that chooses among them from static shapes and the
platform, with the measurements that the rule rests on. Where no algorithm is faster, the rule says the stock operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax

__all__ = ["plain", "plain_kernels"]

# Of JAX's kind, so that what was compiled with one algorithm is not taken for the other.
_plain = jax.make_user_context(False)


def plain() -> bool:
    """Whether the stock operations of JAX are asked for."""
    return _plain.value


@contextmanager
def plain_kernels(enabled: bool = True) -> Iterator[None]:
    """Within, functions compute by JAX's stock operations alone: for debugging, and to compare bit for bit.

    What is compiled within and without is told apart; compile or call within, as the algorithms are chosen then.

    Args:
        enabled: False takes the fast algorithms again.

    Example:
        >>> import jax.numpy as jnp
        >>> import fnn
        >>> x, weight = jnp.ones((1, 2, 6, 6)), jnp.ones((2, 1, 3, 3))
        >>> with fnn.plain_kernels():
        ...     y = fnn.functional.conv2d(x, weight, groups=2)
        >>> bool(jnp.allclose(y, fnn.functional.conv2d(x, weight, groups=2)))
        True
    """
    with _plain(enabled):
        yield
