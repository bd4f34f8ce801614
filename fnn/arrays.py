"""Arrays from what users hold: jax and numpy arrays, torch tensors, numbers and lists."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.scope import Cell, is_tracer


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor; told without importing torch."""
    return any(kind.__module__.partition(".")[0] == "torch" for kind in type(value).__mro__) and hasattr(value, "detach")


def is_array(value: Any) -> bool:
    """Whether a value is an array of jax or numpy, or a number of numpy."""
    return isinstance(value, (jax.Array, np.ndarray, np.generic))


def from_tensor(tensor: Any) -> np.ndarray:
    """The values of a torch tensor as numpy has them."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    name = str(tensor.dtype).removeprefix("torch.")
    if name == "bfloat16" or name.startswith("float8"):
        return tensor.float().numpy().astype(jnp.dtype(name))  # exact: both are float32 with bits cut off
    return tensor.numpy()


def held_dtype(dtype: Any) -> np.dtype:
    """The dtype that JAX holds values of a dtype in: 32 bits for 64 unless x64 is enabled."""
    return jax.dtypes.canonicalize_dtype(dtype)


def as_array(value: Any, dtype: Any = None) -> jax.Array:
    """A jax array (or tracer) from any array-like.

    Args:
        value: a jax or numpy array, a torch tensor (any dtype and strides, with or without gradient), or numbers.
        dtype: what to convert to; by default what the value has.

    Raises:
        OverflowError: where a number of 64 bits does not fit the dtype that JAX holds it in.
    """
    array, _ = declared(value, dtype)
    return array


def to_array(value: Any) -> jax.Array:
    """A jax array from an operand of a layer: a Parameter or Buffer gives its array, a jax array stays what it is."""
    if isinstance(value, Cell):
        value = value.value
    return value if isinstance(value, jax.Array) else as_array(value)


def declared(value: Any, dtype: Any = None) -> tuple[jax.Array, np.dtype]:
    """A jax array, and the dtype that the value was declared with, which may have 64 bits."""
    if isinstance(value, Cell):
        value = value.value
    if isinstance(value, jax.Array):
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
            return value, value.dtype  # a random key
        if dtype is None and not value.weak_type:
            return value, value.dtype
        asked = np.dtype(value.dtype if dtype is None else dtype)
        # Also takes away a weak type, which would make a compiled function compile again.
        return jax.lax.convert_element_type(value, held_dtype(asked)), asked
    source = from_tensor(value) if is_tensor(value) else np.asarray(value)
    if dtype is None and not isinstance(value, (np.ndarray, np.generic)) and not is_tensor(value):
        dtype = {"f": np.float32, "c": np.complex64}.get(source.dtype.kind)  # Python numbers are single, as in torch
    asked = np.dtype(source.dtype if dtype is None else dtype)
    return jnp.array(fitted(source, asked)), asked


def fitted(source: np.ndarray, asked: np.dtype) -> np.ndarray:
    """The values in the dtype that JAX holds values of the asked dtype in; the array itself where it has that already.

    Raises:
        OverflowError: where a number does not fit.
    """
    held = held_dtype(asked)
    if source.dtype == held:
        return source
    with np.errstate(over="ignore"):
        array = source.astype(held)
    lost: Any = False
    if source.dtype.kind in "iu" and np.issubdtype(held, np.integer):
        lost = array != source
    elif held != asked:
        lost = np.isfinite(source) & ~np.isfinite(array)
    if np.any(lost):
        raise OverflowError(
            f"a value of {asked.name} from {source.min()} to {source.max()} does not fit {held.name}, in which JAX holds it; "
            "enable 64 bits with jax.config.update('jax_enable_x64', True)"
        )
    return array


def exported(array: jax.Array, dtype: np.dtype) -> Any:
    """The array as a state_dict has it: a numpy array where the declared dtype has more bits than JAX holds.

    A traced value stays as JAX holds it.
    """
    if is_tracer(array):
        return array
    return np.asarray(array).astype(dtype) if array.dtype != dtype and held_dtype(dtype) == array.dtype else array


def beside(array: jax.Array, old: Any) -> jax.Array:
    """The array where an old one is, unless it says where it is itself, or one of them is traced."""
    if not isinstance(old, jax.Array) or is_tracer(array) or is_tracer(old) or array.committed or not old.committed:
        return array
    return jax.device_put(array, old.sharding)
