"""Mixed precision: autocast, and a policy of dtypes for a module.

Functions of `fnn.functional` ask `to_lower`, `to_float32` or `to_widest` for their operands, which outside of `autocast`
give them back as they are. The dtype in force is a user context of JAX, which is part of the key of all that JAX traces
and compiles: a function traced under one setting is never taken for another.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fnn import scope as _scope
from fnn.arrays import to_array
from fnn.scope import Cell, Scope
from fnn.transforms import plain, restartable

__all__ = [
    "Policy",
    "autocast",
    "get_autocast_dtype",
    "is_autocast_enabled",
    "refuse",
    "to_float32",
    "to_lower",
    "to_widest",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_lower = jax.make_user_context(None)  # the dtype of 16 bits that is in force, or None

_DEVICES = ("cpu", "cuda", "gpu", "hpu", "mps", "rocm", "tpu", "xla", "xpu")


class autocast:
    """Lets functions in a `with` block, or in a decorated function, compute in the precision that they need.

    Parameters stay as they are, and their gradients come out in their own dtype. Of the functions of `fnn.functional`, and
    so of the layers, as torch has it on CUDA:

    - In the lower precision: `linear`, `conv1d` to `conv3d`, `conv_transpose1d` to `conv_transpose3d`, `conv_tbc`, `prelu`,
      `scaled_dot_product_attention`, `multi_head_attention_forward`, and the recurrent functions and cells.
    - In float32: `softmax`, `softmin`, `log_softmax`, `gumbel_softmax`, `softplus`, `layer_norm`, `rms_norm`, `group_norm`,
      `local_response_norm`, `normalize`, `cosine_similarity`, `pairwise_distance`, `pdist`, `lp_pool1d` to `lp_pool3d`,
      `interpolate` and `upsample`, and all losses but `binary_cross_entropy`, which is refused: use
      `binary_cross_entropy_with_logits`. `ctc_loss` keeps the dtype of its input. `linear_cross_entropy` multiplies in
      the lower precision.
    - In the widest dtype of their operands: `bilinear`, `grid_sample`.
    - In the dtype of the input: everything else. float64, integers and complex numbers are never converted.

    Code that calls `jnp` or `lax` is not seen: `x @ w` promotes as JAX does. `fnn.precision.to_lower(x, w)` gives its
    operands in the dtype in force, as the functions above get theirs.

    Args:
        device_type: torch's first argument, which may be left out; it says only the default dtype, since JAX code runs
            where its arrays are.
        dtype: bfloat16 or float16; by default bfloat16, and float16 for "cuda", as in torch. For another one, a warning
            says that there is no autocast.
        enabled: False for a region where nothing is converted; its inputs may then have to be.
        cache_enabled: accepted; the compiler sees that a weight is converted twice.

    Raises:
        ValueError: where device_type is not a string.
        RuntimeError: where it is no device's.

    References:
        Micikevicius et al., Mixed precision training, https://arxiv.org/abs/1710.03740

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> net = fnn.nn.Sequential(fnn.nn.Linear(4, 3), fnn.nn.LayerNorm(3))
        >>> with fnn.autocast(dtype=jnp.bfloat16):
        ...     net[0](jnp.ones((2, 4))).dtype.name, net(jnp.ones((2, 4))).dtype.name
        ('bfloat16', 'float32')
    """

    def __init__(
        self, device_type: str | None = None, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ):
        if device_type is not None and not isinstance(device_type, str):
            raise ValueError(f"Expected `device_type` of type `str`, got: `{type(device_type)}`; give a dtype by name, dtype=")
        if device_type is not None and device_type not in _DEVICES:
            raise RuntimeError(
                f"User specified an unsupported autocast device_type '{device_type}', expected one of {_DEVICES}"
            )
        default = jnp.float16 if device_type == "cuda" else jnp.bfloat16
        chosen = jnp.dtype(default if dtype is None else dtype)
        if enabled and chosen not in (jnp.bfloat16, jnp.float16):
            warnings.warn(
                f"autocast computes in bfloat16 or float16, got the dtype {chosen.name}, which is not supported. Disabling "
                "autocast.",
                stacklevel=2,
            )
            enabled = False
        self._dtype = chosen if enabled else None
        self._entered: list[Any] = []

    def __enter__(self) -> None:
        context = _lower(self._dtype)
        context.__enter__()
        self._entered.append(context)

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)

    def __call__(self, function: _Function) -> _Function:
        """The function, which runs in such a region."""
        dtype = self._dtype

        @functools.wraps(function)
        def autocasted(*args: Any, **kwargs: Any) -> Any:
            with _lower(dtype):
                return function(*args, **kwargs)

        return autocasted  # type: ignore[return-value]


def is_autocast_enabled(device_type: str | None = None) -> bool:
    """Whether autocast is on, as `torch.is_autocast_enabled`; the device does not matter."""
    return _lower.value is not None


def get_autocast_dtype(device_type: str | None = None) -> Any:
    """The lower precision in force, and where autocast is off the one that it would have by default."""
    dtype = _lower.value
    return autocast(device_type)._dtype if dtype is None else dtype


def to_lower(*operands: Any) -> Any:
    """The operands, in the lower precision where autocast is on; a single one as it is, several as a tuple.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> with fnn.autocast():
        ...     x, w = fnn.precision.to_lower(jnp.ones((2, 3)), jnp.ones((3, 4)))
        >>> (x @ w).dtype.name
        'bfloat16'
    """
    dtype = _lower.value
    return _given(operands) if dtype is None else _given([_converted(operand, dtype) for operand in operands])


def to_float32(*operands: Any) -> Any:
    """The operands, in float32 where autocast is on; a single one as it is, several as a tuple."""
    return _given(operands) if _lower.value is None else _given([_converted(operand, jnp.float32) for operand in operands])


def to_widest(*operands: Any) -> Any:
    """The operands, where autocast is on in the widest of their dtypes that it converts; several, as a tuple."""
    dtype = _lower.value
    if dtype is None:
        return operands
    kinds = {to_array(operand).dtype for operand in operands if _is_array(operand)} - {dtype}
    return tuple(_converted(operand, jnp.float32 if kinds & _CONVERTED else dtype) for operand in operands)


def refuse(function: str, instead: str) -> None:
    """Raises where autocast is on, for a function that is not safe in it.

    Raises:
        RuntimeError: as torch.
    """
    if _lower.value is not None:
        raise RuntimeError(f"{function} is unsafe to autocast: use {instead}, or a region of fnn.autocast(enabled=False)")


_CONVERTED = {np.dtype(jnp.float32), np.dtype(jnp.bfloat16), np.dtype(jnp.float16)}


def _given(operands: Any) -> Any:
    return operands[0] if len(operands) == 1 else operands


def _is_array(operand: Any) -> bool:
    return isinstance(operand, (jax.Array, Cell, list)) or hasattr(operand, "__array__")


def _converted(operand: Any, dtype: Any) -> Any:
    if not _is_array(operand):
        return operand
    array = to_array(operand)
    return array.astype(dtype) if array.dtype in _CONVERTED else array


@dataclass(frozen=True)
class Policy:
    """The dtypes that a module holds its parameters in, computes in, and returns.

    Where the computation has 16 bits, forward runs under `autocast`: what needs float32 is computed in it. Else forward
    sees parameters, buffers and floating-point arguments converted to the dtype of the computation, without autocast. For
    None, nothing is converted.

    Args:
        parameters: what `apply` converts parameters and buffers to, as `Module.to` does.
        computation: what forward computes in.
        output: what the floating-point arrays that forward returns are converted to.

    References:
        As `jmp.Policy` of https://github.com/google-deepmind/jmp.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> net = fnn.nn.Sequential(fnn.nn.Linear(4, 3), fnn.nn.ReLU())
        >>> policy = fnn.Policy(parameters=jnp.float32, computation=jnp.bfloat16, output=jnp.float32)
        >>> y, values = fnn.capture(policy.apply(net), ["0"])(jnp.ones((2, 4)))
        >>> net[0].weight.dtype.name, values["0"].dtype.name, y.dtype.name
        ('float32', 'bfloat16', 'float32')
    """

    parameters: Any = jnp.float32
    computation: Any = jnp.bfloat16
    output: Any = jnp.float32

    def __post_init__(self) -> None:
        for name in ("parameters", "computation", "output"):
            dtype = getattr(self, name)
            if dtype is None:
                continue
            if not jnp.issubdtype(dtype, jnp.floating):
                raise TypeError(f"Policy only accepts floating point dtypes, but got {name}={jnp.dtype(dtype).name}")
            object.__setattr__(self, name, jnp.dtype(dtype))

    def apply(self, module: Any) -> Any:
        """Gives a module this policy, in the place of one that it has; returns the module.

        It wraps the module's `forward`, hence it travels with copies, pickles and `fnn.pure`; names in `state_dict` stay.
        A policy of a module inside counts there, but not for the parameters, which the last `apply` converts.
        """
        self.remove(module)
        if self.parameters is not None:
            module.to(dtype=self.parameters)
        module.forward = functools.partial(_governed, self, module, module.forward)
        return module

    @staticmethod
    def remove(module: Any) -> Any:
        """Takes a module's policy away, if it has one; parameters keep their dtypes. Returns the module."""
        forward = vars(module).get("forward")
        if isinstance(forward, functools.partial) and forward.func is _governed:
            del module.forward
            inner = forward.args[2]
            if getattr(inner, "__func__", None) is not type(module).forward:  # a forward that was set before the policy
                module.forward = inner
        return module


def _governed(policy: Policy, module: Any, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls forward as a policy says."""
    dtype = policy.computation
    if dtype is None:
        out = forward(*args, **kwargs)
    elif dtype in (jnp.bfloat16, jnp.float16):
        with autocast(dtype=dtype):
            out = forward(*args, **kwargs)
    else:
        with autocast(enabled=False):
            out = _converting(dtype, module, forward, args, kwargs)
    return out if policy.output is None else _floats_to(policy.output, out)


def _converting(dtype: Any, module: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    if any(cell.uninitialized for cell in module._cells()):
        raise _scope.StateError(
            f"a Policy that computes in {dtype.name} converts parameters, and {type(module).__name__} has lazy ones: call the "
            "module once before Policy.apply"
        )
    args, kwargs = _floats_to(dtype, (args, kwargs))

    def attempt(token: bool) -> Any:
        own = {cell: cell.value for cell in module._cells()}
        held = {cell: _floats_to(dtype, value) for cell, value in own.items()}
        with Scope(held, token=token) as scope:
            out = plain(forward(*args, **kwargs))
        written = scope.written.items()
        return out, {cell: value.astype(own[cell].dtype) if cell in own else value for cell, value in written}

    out, written = restartable(module, attempt)
    _scope.commit(written)
    return out


def _floats_to(dtype: Any, tree: Any) -> Any:
    """The tree with its floating-point arrays in a dtype."""

    def convert(leaf: Any) -> Any:
        floating = isinstance(leaf, (jax.Array, np.ndarray)) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, dtype) if floating else leaf

    return jax.tree.map(convert, tree)
