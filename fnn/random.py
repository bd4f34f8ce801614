"""Random numbers: the default generator, and streams of keys.

A generator is a key and the number of draws made from it; the draw with number `i` uses `jax.random.fold_in(key, i)`.
The number is a Python integer also while JAX traces, so that drawing writes nothing that a transformation could lose.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np

from fnn import scope as _scope
from fnn.scope import Cell, StateError


class Stream:
    """Keys folded from one key, counted in Python."""

    def __init__(self, key: Any, offset: Any = 0, outer: Any = None):
        self.key = key
        self.offset = offset
        self.outer = outer  # what initialises parameters made here, where the key is traced
        self.count = 0

    def advance(self, count: int = 1) -> tuple[Any, Any]:
        """Takes `count` draws; returns the key and the number of the first of them."""
        number = self.offset + self.count
        self.count += count
        return self.key, number

    operands = advance  # the same, as inputs of a compiled function

    def reserve(self) -> Callable[[], jax.Array]:
        """Takes one draw for later."""
        if self.outer is not None:
            return self.outer.reserve()
        if _scope.is_tracer(self.key):
            raise StateError(
                "a parameter cannot be initialised from a traced key, since it would keep the traced value. Build the module "
                "outside of the transformation, or take its values from fnn.pure(module).init(key)."
            )
        key, number = self.advance()
        return lambda: _fold(key, number)


class NoStream:
    """Refuses draws; holds the place of the key that a pure function was not given."""

    def operands(self, count: int) -> tuple[Any, Any]:
        return self.advance(count) if count else (_seed_data(0), np.uint32(0))

    def advance(self, count: int = 1) -> tuple[Any, Any]:
        raise StateError("a random number was asked for (dropout, for example), but apply was given no key: pass rng=key.")

    def reserve(self) -> Callable[[], jax.Array]:
        return default_generator.reserve()


_stream: ContextVar[Stream | NoStream | None] = ContextVar("fnn_stream", default=None)


class Generator:
    """A source of random numbers, as `torch.Generator`.

    Args:
        seed: where it starts. The key is made at the first draw, so that construction touches no device.

    Example:
        >>> generator = Generator().manual_seed(3)
        >>> generator.initial_seed()
        3
        >>> bool(generator.next_key() == generator.next_key())
        False
    """

    def __init__(self, seed: int = 0):
        self._lock = threading.Lock()
        self._cell = Cell(label="the generator's state")
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> Generator:
        """Starts again from a seed; returns the generator."""
        self._seed = int(seed)
        self._last: Any = (None, None)
        self._initialized = 0
        self._set_offset(0)
        return self

    def initial_seed(self) -> int:
        """The seed it last started from."""
        return self._seed

    @property
    def key(self) -> jax.Array:
        """The key that all draws are folded from."""
        return _seed_key(self._seed)

    @property
    def offset(self) -> int:
        """The number of draws made so far."""
        scope = _scope.current()
        value = None if scope is None else scope.root.written.get(self._cell)
        return self._cell._value if value is None else value

    def _set_offset(self, offset: int) -> None:
        scope = _scope.current()
        if scope is None:
            self._cell._value = offset
        else:
            scope.root.put(self._cell, offset)

    def operands(self, count: int) -> tuple[Any, Any]:
        """As `advance`, as inputs of a compiled function: JAX dispatches plain key data faster than keys."""
        offset = self.advance(count)[1] if count else self._cell._value if _scope.current() is None else self.offset
        if offset != self._last[0]:
            self._last = offset, (_seed_data(self._seed), np.uint32(offset))
        return self._last[1]

    def advance(self, count: int = 1) -> tuple[Any, Any]:
        """Takes `count` draws; returns the key and the number of the first of them."""
        scope = _scope.current()
        if _scope.in_staged_code() if scope is None else scope.root.staged:
            raise StateError(
                "a random number was asked of the default generator inside plain JAX tracing (jax.jit, scan, ...): it would be "
                "drawn once and be a constant of the compiled function. Use fnn.jit, or fnn.pure(module) with "
                "apply(..., rng=key), or draw inside `with fnn.rng(key)`."
            )
        with self._lock:
            first = self.offset
            self._set_offset(first + count)
        return self.key, first

    def reserve(self) -> Callable[[], jax.Array]:
        """Takes a key for later, for the initial value of a parameter.

        These keys are counted apart from draws, so that a mask does not depend on how many parameters there are.
        """
        seed, number = self._seed, self._initialized
        self._initialized += 1
        return lambda: _fold(_fold(_seed_key(seed), 0xFFFFFFFF), number)

    def next_key(self) -> jax.Array:
        """A fresh key."""
        return _fold(*self.advance())

    def get_state(self) -> dict[str, int]:
        """All of its state: the seed, the number of draws, and the number of parameters initialised."""
        return {"seed": self._seed, "offset": self.offset, "initialized": self._initialized}

    def set_state(self, state: Mapping[str, int]) -> Generator:
        """Restores what `get_state` returned.

        Raises:
            TypeError: for something else, such as the state of a generator of torch; nothing changes.
            ValueError: for numbers that are no counts; likewise.
        """
        if not isinstance(state, Mapping) or state.keys() != self.get_state().keys():
            raise TypeError(f"expected a state as get_state returns it, with {', '.join(self.get_state())}, got {state!r:.100}")
        seed, offset, initialized = (int(state[name]) for name in ("seed", "offset", "initialized"))
        if not 0 <= min(offset, initialized) <= max(offset, initialized) < 1 << 32:
            raise ValueError(
                f"the numbers of draws and of initial values are from 0 to 2**32 - 1, got {offset} and {initialized}"
            )
        self.manual_seed(seed)
        self._set_offset(offset)
        self._initialized = initialized
        return self


@functools.lru_cache(maxsize=16)
def _seed_key(seed: int) -> jax.Array:
    with jax.core.eval_context():
        key = jax.random.key(seed & 0xFFFFFFFF)
        return key if 0 <= seed < 1 << 32 else _fold(key, (seed >> 32) & 0xFFFFFFFF)


default_generator = Generator()


@functools.lru_cache(maxsize=16)
def _seed_data(seed: int) -> jax.Array:
    with jax.core.eval_context():
        return jax.random.key_data(_seed_key(seed))


def typed(key: Any) -> jax.Array:
    """A key from the operand that `operands` gave."""
    return key if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


def _fold(key: Any, number: Any) -> jax.Array:
    return jax.random.fold_in(key, np.uint32(number) if isinstance(number, int) else number)


def source() -> Any:
    """What draws come from here: the stream of the innermost `rng`, `apply` or `fnn.jit`, else the default generator."""
    return _stream.get() or default_generator


def next_key() -> jax.Array:
    """A fresh key from the source in force: what dropout and its like draw with."""
    scope = _scope.current()
    if scope is None:
        return _fold(*source().advance())
    scope.depends()
    key = _fold(*source().advance())
    scope.has_changed()
    return key


class drawing_from:
    """Makes a stream the source of random numbers; a context manager."""

    def __init__(self, stream: Stream | NoStream):
        self.stream = stream

    def __enter__(self) -> Stream | NoStream:
        self._reset = _stream.set(self.stream)
        return self.stream

    def __exit__(self, *error: Any) -> None:
        _stream.reset(self._reset)


class rng(drawing_from):
    """Draws random numbers from a key inside a `with` block, the same ones in the same order as `apply(..., rng=key)`.

    Args:
        key: a JAX key, or an integer seed.

    Example:
        >>> import fnn, jax, jax.numpy as jnp
        >>> dropout = fnn.nn.Dropout(0.5)
        >>> with fnn.rng(jax.random.key(0)):
        ...     a = dropout(jnp.ones(8))
        >>> with fnn.rng(jax.random.key(0)):
        ...     b = dropout(jnp.ones(8))
        >>> bool((a == b).all())
        True
    """

    def __init__(self, key: Any):
        super().__init__(Stream(as_key(key)))


def as_key(key: Any) -> Any:
    """A key from a key or an integer seed."""
    return _seed_key(key) if isinstance(key, int) else key


def manual_seed(seed: int) -> Generator:
    """Seeds the default generator, which initialises parameters and draws for dropout; returns it.

    Args:
        seed: any integer.

    Example:
        >>> import fnn
        >>> _ = fnn.manual_seed(0); a = fnn.nn.Linear(2, 2).weight
        >>> _ = fnn.manual_seed(0); b = fnn.nn.Linear(2, 2).weight
        >>> bool((a == b).all())
        True
    """
    return default_generator.manual_seed(seed)
