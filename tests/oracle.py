"""torch as the oracle: the same call in torch and in fnn, compared in value and in gradient.

Operands are numpy arrays. Importing this module skips the test file where torch is not installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.tree import unnest

torch = pytest.importorskip("torch")

_TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Normally distributed numbers, of any dtype that JAX has."""
    return np.asarray(np.random.standard_normal(shape), np.float32).astype(jnp.dtype(dtype))


def integers(high: int, *shape: int) -> np.ndarray:
    """Whole numbers from 0 to high - 1."""
    return np.asarray(np.random.randint(0, high, shape))


def tensor(array: Any) -> Any:
    """The numpy array as a torch tensor."""
    array = np.array(array)
    if array.dtype == jnp.bfloat16:
        return torch.tensor(array.astype(np.float32)).bfloat16()
    return torch.tensor(array)


def numpy(value: Any) -> np.ndarray:
    """A torch tensor or an array as numpy has it; 16-bit floats as float32."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        value = (value.float() if value.is_floating_point() else value).numpy()
    value = np.asarray(value)
    return value.astype(np.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value


def dtype_name(value: Any) -> str:
    """The dtype of a tensor or an array, 64 bits counted as the 32 that JAX holds."""
    return str(value.dtype).removeprefix("torch.").replace("64", "32")


def assert_close(ours: Any, theirs: Any, tolerance: float | None = None, what: str = "") -> None:
    """Asserts the same shape, dtype, and values up to rounding, relative to the largest."""
    assert tuple(ours.shape) == tuple(theirs.shape), f"{what}: shape {tuple(ours.shape)}, torch has {tuple(theirs.shape)}"
    assert dtype_name(ours) == dtype_name(theirs), f"{what}: {dtype_name(ours)}, torch has {dtype_name(theirs)}"
    expected = numpy(theirs)
    tolerance = _TOLERANCE.get(dtype_name(ours), 0) if tolerance is None else tolerance
    finite = np.abs(expected[np.isfinite(expected)]) if expected.dtype.kind == "f" else np.abs(expected)
    scale = float(finite.max(initial=0))
    np.testing.assert_allclose(numpy(ours), expected, rtol=tolerance, atol=tolerance * max(scale, 1e-3), err_msg=what)


def _sequence(value: Any) -> Sequence[Any]:
    return [item for item in value if item is not None] if isinstance(value, (tuple, list)) else (value,)


def _is_floating(value: Any) -> bool:
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)


def assert_agree(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    *operands: Any,
    tolerance: float | None = None,
    fixed: Sequence[int] = (),
    **options: Any,
) -> None:
    """Asserts that two functions agree in value and, for a random cotangent, in the gradient of each floating operand.

    Args:
        ours: of fnn.
        theirs: of torch.
        operands: given to both: numpy arrays as each one's arrays, and anything else as it is.
        tolerance: relative; by default that of the dtype.
        fixed: the places of operands to take no gradient in.
        options: given to both.
    """
    places = [i for i, operand in enumerate(operands) if _is_floating(operand) and i not in fixed]
    tensors = [tensor(operand) if isinstance(operand, np.ndarray) else operand for operand in operands]
    for i in places:
        tensors[i].requires_grad_()
    expected = _sequence(theirs(*tensors, **options))

    def of_floating(*values: Any) -> Any:
        arguments = [jnp.asarray(operand) if isinstance(operand, np.ndarray) else operand for operand in operands]
        for i, value in zip(places, values, strict=True):
            arguments[i] = value
        return _sequence(ours(*arguments, **options))

    floats = [jnp.asarray(operands[i]) for i in places]
    cotangents = [normal(*map(int, other.shape), dtype=dtype_name(other)) for other in expected]

    @jax.jit
    def run(floats: Any, cotangents: Any) -> Any:
        outputs, pull = jax.vjp(of_floating, *floats)
        zeros = [np.zeros(output.shape, jax.dtypes.float0) for output in outputs]
        given = [c if _is_floating(output) else zero for output, c, zero in zip(outputs, cotangents, zeros, strict=True)]
        return outputs, pull(type(outputs)(given))

    outputs, pulled = run(floats, cotangents)
    assert len(outputs) == len(expected)
    for i, (output, other) in enumerate(zip(outputs, expected, strict=True)):
        assert_close(output, other, tolerance, f"output {i}")
    if not places:
        return
    floating = [i for i, output in enumerate(outputs) if _is_floating(output) and expected[i].requires_grad]
    gradients = torch.autograd.grad(
        [expected[i] for i in floating],
        [tensors[i] for i in places],
        [tensor(cotangents[i]) for i in floating],
        allow_unused=True,
        materialize_grads=True,
    )
    for i, gradient, other in zip(places, pulled, gradients, strict=True):
        assert_close(gradient, other, tolerance, f"gradient of operand {i}")


def assert_layers_agree(ours: Any, theirs: Any, *inputs: np.ndarray, tolerance: float | None = None, **options: Any) -> None:
    """Asserts that two layers print alike, have the same attributes, and agree for the same weights.

    Compared are the output, the gradients of the inputs and of all parameters, and the buffers after forward, with both
    faces of our layer.

    Args:
        ours: of fnn; takes the state_dict of theirs.
        theirs: of torch.
        inputs: numpy arrays.
        tolerance: relative; by default that of the dtype.
        options: given to forward of both: numpy arrays as each one's arrays, and anything else as it is.
    """
    our_options = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    their_options = {name: tensor(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    ours.train(theirs.training)
    assert_same_face(ours, theirs)
    ours.load_state_dict(theirs.state_dict())
    params, state = fnn.split(ours)
    _, apply = fnn.pure(ours)
    names = [name for name, _ in theirs.named_parameters()]
    count = len(names)

    def run(*operands: Any) -> Any:
        values = dict(zip(names, operands[:count], strict=True))
        return apply(fnn.tree.nest(values), *operands[count:], state=state, training=True, **our_options)[0]

    def run_theirs(*operands: Any) -> Any:
        values = dict(zip(names, operands[:count], strict=True))
        return torch.func.functional_call(theirs, values, operands[count:], their_options)

    flat = unnest(params)
    before = {name: buffer.clone() for name, buffer in theirs.named_buffers()}
    assert_agree(run, run_theirs, *(np.asarray(flat[name]) for name in names), *inputs, tolerance=tolerance)
    for name, buffer in theirs.named_buffers():
        buffer.copy_(before[name])

    expected = theirs(*map(tensor, inputs), **their_options)
    _, new_state = apply(params, *map(jnp.asarray, inputs), state=state, training=True, **our_options)
    given = ours(*map(jnp.asarray, inputs), **our_options)
    for output, other in zip(_sequence(given), _sequence(expected), strict=True):
        assert_close(output, other, tolerance, "stateful output")
    for face, values in (("stateful", dict(ours.named_buffers())), ("functional", unnest(new_state))):
        for name, buffer in theirs.named_buffers():
            assert_close(values[name], buffer, tolerance, f"{face} {name}")


def assert_same_face(ours: Any, theirs: Any) -> None:
    """Asserts that two layers print alike and have the same public attributes and state_dict keys."""
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict(keep_vars=True)) == list(theirs.state_dict())
    for name, value in vars(theirs).items():
        if not name.startswith("_"):
            own = getattr(ours, name)
            assert (own.__name__ == value.__name__) if inspect.isroutine(value) else (own == value), name


def assert_refused(call: Callable[[Any, Callable[[Any], Any]], Any], *words: str) -> None:
    """Asserts that fnn raises the type of exception that torch raises, with some words in the message.

    Args:
        call: takes `torch.nn` or `fnn.nn`, and what makes their arrays of numpy's.
        words: what is expected and what is given.
    """
    with pytest.raises(Exception) as expected:  # noqa: PT011
        call(torch.nn, tensor)
    with pytest.raises(expected.type) as raised:
        call(fnn.nn, jnp.asarray)
    for word in words:
        assert word in str(raised.value)
