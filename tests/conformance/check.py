"""One case through torch and through fnn."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from conformance.cases import DIFFERENT, Call, Case, convert, function_of
from torch.utils import _pytree as pytree

import fnn
import fnn.nn
from fnn.tree import nest, unnest

DRAWS = 64  # of a random function
TOLERANCE = 1e-5  # absolute, as PyTorch's own; and relative to the largest value
PLATFORMS = ["cpu", "cuda", "tpu"]


torch.set_num_threads(1)  # max_unpool of repeated indices is a race


class Mismatch(AssertionError):
    """What differs from torch."""


def check(case: Case) -> str:
    """Runs a case: a sample gives what torch gives, eagerly and under jit, and has its gradients; an error input is refused.

    Returns:
        The outcome in a word or two.

    Raises:
        Mismatch: where fnn differs from torch.
        Exception: what fnn raises.
    """
    if not case.refused:
        return _quietly(_check_sample, case)
    # in 64 bits, so that dtypes that do not fit each other stay what they are
    with jax.enable_x64(any(_is_tensor(x) and x.dtype == torch.float64 for x in pytree.tree_leaves(case.call.args))):
        return _quietly(_check_refused, case)


def _quietly(function: Callable[..., str], case: Case) -> str:
    torch.manual_seed(0)
    fnn.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(case)
        except Mismatch:
            if case.name not in DIFFERENT:
                raise
            return "differs"


# Inputs that shall be refused

_compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: _compiled.append(event) if "backend_compile" in event else None
)


def _check_refused(case: Case) -> str:
    call = case.call
    args, kwargs = convert((call.args, call.kwargs))
    made = None if call.constructor is None else convert(call.constructor)
    layer = None
    if made is not None and not case.on_construction:
        layer = getattr(fnn.nn, call.name)(*made[0], **made[1])
        if not any(map(fnn.nn.parameter.is_lazy, layer._named_cells().values())):
            fnn.split(layer)  # so that what it draws at first access does not count as compiled by the call
        before = {name: np.asarray(handle) for name, handle in layer.named_buffers()}
    _compiled.clear()
    try:
        if made is None:
            function_of(call.name)(*args, **kwargs)
        elif layer is None:
            getattr(fnn.nn, call.name)(*made[0], **made[1])
        else:
            layer(*args, **kwargs)
    except Exception as error:
        if not str(error):
            raise Mismatch(f"refused without a message: {error!r}") from error
        if _compiled:
            raise Mismatch(f"compiled something before it refused with: {error}") from error
        if layer is not None and any((np.asarray(handle) != before[name]).any() for name, handle in layer.named_buffers()):
            raise Mismatch(f"wrote a buffer before it refused with: {error}") from error
        return "refused" if isinstance(error, case.refused) else f"refused, {type(error).__name__}"
    raise Mismatch(f"not refused; torch raises {' or '.join(e.__name__ for e in case.refused)}")


# Samples


class Pair:
    """A call as a function of its floating operands that require a gradient: ours of arrays, torch's of tensors.

    For a layer the operands are those of forward and then its parameters. All numbers are in a dtype, and rounded before
    to another where one is given.

    Attributes:
        ours, theirs: the functions.
        tensors: the operands, of torch.
        floats: the same, of JAX.
    """

    def __init__(self, call: Call, dtype: Any = None, rounded: Any = None):
        leaves, self._spec = pytree.tree_flatten((call.args, call.kwargs))
        self._leaves = [_cast(_cast(x, rounded), dtype) for x in leaves]
        self._converted = [convert(x) for x in self._leaves]
        self._places = [i for i, x in enumerate(self._leaves) if _is_tensor(x) and x.requires_grad]
        self.tensors = [self._leaves[i].detach().clone().requires_grad_() for i in self._places]
        self._call, self._dtype = call, dtype
        self._names: list[str] = []
        if call.constructor is not None:
            self._make_layers(call, dtype)
        self.floats = [convert(x) for x in self.tensors]

    def _make_layers(self, call: Call, dtype: Any) -> None:
        args, kwargs = call.constructor or ((), {})
        self.their_layer = call.function(*args, **kwargs).train(call.training)
        self.their_layer.to(dtype or torch.float32)
        our_args, our_kwargs = convert((args, kwargs))
        self.our_layer = getattr(fnn.nn, call.name)(*our_args, **our_kwargs).train(call.training)
        if dtype is not None:
            self.our_layer.to(str(dtype).removeprefix("torch."))
        if any(map(torch.nn.parameter.is_lazy, [*self.their_layer.parameters(), *self.their_layer.buffers()])):
            for layer, leaves in ((self.their_layer, self._leaves), (self.our_layer, self._converted)):
                args, kwargs = pytree.tree_unflatten(leaves, self._spec)
                layer(*args, **kwargs)
        keys = list(self.their_layer.state_dict())
        if list(self.our_layer.state_dict()) != keys:
            raise Mismatch(f"state_dict has {list(self.our_layer.state_dict())}, torch's {keys}")
        theirs = re.sub(r"torch.Size\(\[(.*?)\]\)", r"(\1)", repr(self.their_layer))
        if repr(self.our_layer) != theirs:
            raise Mismatch(f"repr is {self.our_layer!r}, torch's {theirs}")
        self.our_layer.load_state_dict(self.their_layer.state_dict(), assign=True)
        params, self._state = fnn.split(self.our_layer)
        parameters = dict(self.their_layer.named_parameters())
        if set(unnest(params)) != set(parameters):
            raise Mismatch(f"parameters are {list(unnest(params))}, torch's {list(parameters)}")
        self._names = list(parameters)
        self.tensors += [p.detach().clone().requires_grad_() for p in parameters.values()]
        self._apply = fnn.pure(self.our_layer).apply

    def in_float64(self) -> Pair:
        """The same call of the same numbers, those of a layer too."""
        pair = Pair(self._call, torch.float64, self._dtype)
        if self._call.constructor is not None:
            pair.their_layer.load_state_dict(self.their_layer.state_dict())
        pair.tensors = [
            x.detach().to(other.dtype).requires_grad_() for x, other in zip(self.tensors, pair.tensors, strict=True)
        ]
        return pair

    def _arguments(self, leaves: list[Any], values: Sequence[Any]) -> Any:
        leaves = list(leaves)
        for i, value in zip(self._places, values, strict=False):
            leaves[i] = value
        return pytree.tree_unflatten(leaves, self._spec)

    def ours(self, *floats: Any) -> Any:
        """Our outputs; a layer is called through `fnn.pure`."""
        args, kwargs = self._arguments(self._converted, floats)
        if self._call.constructor is None:
            return function_of(self._call.name)(*args, **kwargs)
        params = nest(dict(zip(self._names, floats[len(self._places) :], strict=True)))
        return self._apply(params, *args, state=self._state, rng=0, training=True, **kwargs)[0]

    def theirs(self, *tensors: Any) -> Any:
        """Torch's outputs; buffers are left as they are."""
        # torch writes in place what is no leaf of its graph
        leaves = [x.detach().clone() if _is_tensor(x) else x for x in self._leaves]
        args, kwargs = self._arguments(leaves, [x.clone() for x in tensors])
        if self._call.constructor is None:
            return self._call.function(*args, **kwargs)
        named = {name: buffer.clone() for name, buffer in self.their_layer.named_buffers()}
        named |= zip(self._names, tensors[len(self._places) :], strict=True)
        return torch.func.functional_call(self.their_layer, named, args, kwargs)

    def is_random(self) -> bool:
        """Whether torch draws random numbers."""
        before = torch.get_rng_state()
        with torch.no_grad():
            self.theirs(*self.tensors)
        return not torch.equal(before, torch.get_rng_state())

    def call_in_place(self) -> tuple[Any, dict[str, tuple[Any, Any]]]:
        """Calls ours as users do, and torch's; our outputs, and what either wrote, ours and torch's by name."""
        ours = self._converted
        leaves = [x.detach().clone() if _is_tensor(x) else x for x in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        if self._call.constructor is not None:
            layer = copy.deepcopy(self.their_layer)
            layer(*args, **kwargs)
            args, kwargs = pytree.tree_unflatten(ours, self._spec)
            out = self.our_layer(*args, **kwargs)
            own = dict(self.our_layer.named_buffers())
            return out, {name: (own[name].value, buffer) for name, buffer in layer.named_buffers()}
        with torch.no_grad():
            self._call.function(*args, **kwargs)
        # what ends in an underscore returns its result here
        in_place = self._call.name.endswith("_")
        written = [i for i, x in enumerate(leaves) if not in_place and _is_tensor(x) and not _same(x, self._leaves[i])]
        ours = [fnn.nn.Buffer(x) if i in written else x for i, x in enumerate(ours)]
        args, kwargs = pytree.tree_unflatten(ours, self._spec)
        out = function_of(self._call.name)(*args, **kwargs)
        return out, {f"argument {i}": (ours[i].value, leaves[i]) for i in written}


def _check_sample(case: Case) -> str:
    pair = Pair(case.call)
    expected = pair.theirs(*pair.tensors)
    if pair.is_random():
        return _check_random(pair, expected)
    out, written = pair.call_in_place()
    compare(out, expected, "output")
    for name, (own, other) in written.items():
        compare(own, other, f"{name} after the call")
    _compare_gradients(pair, expected)
    return "passed"


def _compare_gradients(pair: Pair, expected: Any) -> None:
    """Compares the outputs under jit, and the gradients for a random cotangent."""
    tensors = pytree.tree_leaves(expected)
    places = [i for i, x in enumerate(tensors) if _is_tensor(x) and x.requires_grad]
    if not places or not pair.tensors:
        return
    random = np.random.default_rng(0)
    cotangents = [_normal(random, tensors[i]) for i in places]

    @jax.jit
    def both(floats: Any, cotangents: Any) -> Any:
        with fnn.rng(0):  # an empty batch draws nothing in torch
            outputs, pull = jax.vjp(lambda *floats: pytree.tree_leaves(pair.ours(*floats)), *floats)
        given: list[Any] = [
            np.zeros(x.shape, jax.dtypes.float0) if not jnp.issubdtype(x.dtype, jnp.inexact) else jnp.zeros_like(x)
            for x in outputs
        ]
        for i, cotangent in zip(places, cotangents, strict=True):
            given[i] = cotangent.conj() if jnp.iscomplexobj(cotangent) else cotangent
        return outputs, pull(given)

    def gradients_of(pair: Pair, tensors: list[Any]) -> Any:
        given = [torch.tensor(c).to(tensors[i].dtype) for i, c in zip(places, cotangents, strict=True)]
        return torch.autograd.grad([tensors[i] for i in places], pair.tensors, given, allow_unused=True, materialize_grads=True)

    outputs, gradients = both(pair.floats, cotangents)
    compare(outputs, tensors, "output under jit")
    for i, (gradient, other) in enumerate(zip(gradients, gradients_of(pair, tensors), strict=True)):
        ours = gradient.conj() if jnp.iscomplexobj(gradient) else gradient
        try:
            compare(ours, other, f"gradient of operand {i}")
        except Mismatch:
            # Long sums in float32: torch's own error against its float64 says what can be asked.
            exact = pair.in_float64()
            right = gradients_of(exact, pytree.tree_leaves(exact.theirs(*exact.tensors)))[i]
            if not np.abs(np.asarray(ours) - right.numpy()).max() <= (other - right).abs().max().item():
                raise


def _check_random(pair: Pair, expected: Any) -> str:
    """Compares the means and the shares of zeros over many draws: they lie within five standard errors."""

    @jax.jit
    def draw(key: Any, floats: Any) -> Any:
        with fnn.rng(key):
            return pair.ours(*floats) if pair._call.constructor is None else pair.our_layer(*pair._converted)

    def figures(output: Any) -> np.ndarray:
        values = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in pytree.tree_leaves(output)])
        return np.array([values.mean(), (values == 0).mean()])

    compare(pair.call_in_place()[0], expected, "output", values=False)
    with torch.no_grad():
        own = np.stack([figures(draw(key, pair.floats)) for key in jax.random.split(jax.random.key(0), DRAWS)])
        other = np.stack([figures(pair.theirs(*pair.tensors)) for _ in range(DRAWS)])
    if other.std(0)[0] > 0 and not own.std(0)[0] > 0:
        raise Mismatch("it draws the same numbers each time")
    error = np.sqrt((own.var(0) + other.var(0)) / DRAWS)
    if (np.abs(own.mean(0) - other.mean(0)) > 5 * error + 1e-6).any():
        raise Mismatch(f"mean and share of zeros are {own.mean(0)}, torch's {other.mean(0)}, with standard error {error}")
    return "passed, random"


# Transformations and dtypes


def check_transformations(case: Case) -> str:
    """Runs a sample under jvp, vjp, both composed, vmap, vmap of the gradient, and exports it and its gradient.

    In float64: forward and reverse mode agree for random vectors, so do the two ways to a Hessian-vector product; vmap
    gives what a loop gives.
    """
    return _quietly(_check_transformations, case)


def _check_transformations(case: Case) -> str:
    with jax.enable_x64(True):
        pair = Pair(case.call, torch.float64)
        floats = [np.asarray(x) for x in pair.floats if not jnp.iscomplexobj(x)]
        if not floats or len(floats) < len(pair.floats):
            return "passed, has no real operand"

        def outputs(*floats: Any) -> list[Any]:
            with fnn.rng(0):
                return [x for x in pytree.tree_leaves(pair.ours(*floats)) if jnp.issubdtype(x.dtype, jnp.inexact)]

        def scalar(*floats: Any) -> Any:
            return sum(jnp.sin(x + 0.3).sum() for x in outputs(*floats))

        random = np.random.default_rng(3)
        tangents = tuple(random.standard_normal(x.shape) for x in floats)
        gradient = jax.grad(scalar, argnums=tuple(range(len(floats))))

        @jax.jit
        def derivatives(floats: Any, tangents: Any) -> Any:
            out, forward = jax.jvp(lambda *floats: outputs(*floats), tuple(floats), tangents)
            cotangents = [jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape) for x in out]
            _, pull = jax.vjp(lambda *floats: outputs(*floats), *floats)
            _, over = jax.jvp(gradient, tuple(floats), tangents)
            slope = jax.grad(lambda floats: _dot(gradient(*floats), tangents))(tuple(floats))
            return _dot(forward, cotangents), _dot(pull(cotangents), tangents), over, slope

        one, other, over, slope = derivatives(floats, tangents)
        _equal(one, other, "forward and reverse mode")
        _equal(over, slope, "forward over reverse and reverse over reverse")
        stacked = [np.stack([x, x + 0.1 * random.standard_normal(x.shape)]) for x in floats]
        for function, what in ((outputs, "vmap"), (gradient, "vmap of the gradient")):
            mapped, looped = jax.jit(
                lambda stacked, function=function: (
                    jax.vmap(lambda *floats: tuple(function(*floats)))(*stacked),
                    jax.tree.map(lambda *x: jnp.stack(x), *[tuple(function(*(x[i] for x in stacked))) for i in (0, 1)]),
                )
            )(stacked)
            _equal(mapped, looped, what)
    singles = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in floats]
    single = Pair(case.call)

    def exported(*floats: Any) -> Any:
        with fnn.rng(0):
            return [x for x in pytree.tree_leaves(single.ours(*floats)) if jnp.issubdtype(x.dtype, jnp.inexact)]

    def loss(*floats: Any) -> Any:
        return sum(jnp.sin(x).sum() for x in exported(*floats))

    for function in (exported, jax.grad(loss, argnums=tuple(range(len(floats))))):
        jax.export.export(jax.jit(function), platforms=PLATFORMS)(*singles)
    return "passed"


def check_dtypes(case: Case) -> str:
    """Runs a sample in float64, in bfloat16, and with a NaN and an infinity in it.

    The error of bfloat16, against torch's float64, is no larger than torch's own, up to half a unit in the last place.
    """
    return _quietly(_check_dtypes, case)


def _check_dtypes(case: Case) -> str:
    def run(dtype: Any) -> tuple[Pair, Any]:
        torch.manual_seed(0)  # the same parameters
        pair = Pair(case.call, dtype)
        try:
            return pair, pair.theirs(*pair.tensors)
        except (NotImplementedError, RuntimeError, ValueError):
            return pair, None  # torch does not have it in this dtype

    with jax.enable_x64(True):
        pair, expected = run(torch.float64)
        if expected is None or pair.is_random():
            return "passed, not in float64"
        compare(pair.ours(*pair.floats), expected, "float64", tolerance=1e-12, canonical=False)
    pair, theirs = run(torch.bfloat16)
    if theirs is not None:
        wide = pair.in_float64()
        exact = wide.theirs(*wide.tensors)
        ours = pytree.tree_leaves(pair.ours(*pair.floats))
        for own, other, right in zip(ours, pytree.tree_leaves(theirs), pytree.tree_leaves(exact), strict=True):
            if not _is_tensor(other) or not other.is_floating_point():
                continue
            if own.dtype != jax.dtypes.canonicalize_dtype(jnp.dtype(str(other.dtype).removeprefix("torch."))):
                raise Mismatch(f"bfloat16 gives {own.dtype}, torch {other.dtype}")
            limits = right.detach().double().numpy()
            errors = [np.abs(np.asarray(x, np.float64) - limits) for x in (own, other.detach().double().numpy())]
            finite = np.isfinite(errors[1]) & np.isfinite(limits)
            worst, allowed = (e[finite].max(initial=0) for e in errors)
            half = 2.0**-9 * np.abs(limits[finite]).max(initial=0)
            if not worst <= allowed + half:
                raise Mismatch(f"bfloat16 is off by {worst:g}, torch's by {allowed:g}")
    for value in (float("nan"), float("inf")):
        _check_one_value(case, value)
    return "passed"


def _check_one_value(case: Case, value: float) -> None:
    """Runs a sample with one value of its first operand changed."""
    pair = Pair(case.call, torch.float32)
    pairs = [pair, pair.in_float64()]
    for pair in pairs:
        for tensor in pair.tensors[:1]:
            if tensor.numel():
                tensor.detach()[np.unravel_index(tensor.numel() // 2, tensor.shape)] = value
    try:
        expected, wide = (pair.theirs(*pair.tensors) for pair in pairs)
    except (RuntimeError, ValueError):
        return
    out = pairs[0].ours(*map(convert, pairs[0].tensors))
    for own, other, exact in zip(*map(pytree.tree_leaves, (out, expected, wide)), strict=True):
        if _is_tensor(other) and other.is_floating_point():
            # Where torch's float32 and float64 lose an infinity in other ways, such as gelu's, nothing can be asked.
            either = torch.isclose(other.double(), exact.double(), rtol=1e-3, atol=1e-3, equal_nan=True)
            own = jnp.where(jnp.asarray(either.numpy()), own, jnp.asarray(other.detach().numpy()))
        compare(own, other, f"with {value}")


def _dot(one: Any, other: Any) -> Any:
    return sum(jnp.vdot(a, b) for a, b in zip(one, other, strict=True))


def _equal(one: Any, other: Any, what: str) -> None:
    # of all operands: where one's terms cancel, what is left is their rounding
    largest = max((np.abs(np.asarray(b)).max(initial=0) for b in jax.tree.leaves(other)), default=0)
    for i, (a, b) in enumerate(zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)):
        a, b = np.asarray(a), np.asarray(b)
        atol = max(1e-9 * (1 + np.abs(b).max(initial=0)), 1e-12 * largest)
        if a.shape != b.shape or not np.allclose(a, b, rtol=1e-7, atol=atol, equal_nan=True):
            raise Mismatch(f"{what} differ in operand {i}: {a.ravel()[:4]} and {b.ravel()[:4]}")


# Comparison


def _cast(value: Any, dtype: Any) -> Any:
    if dtype is None or not _is_tensor(value) or not value.is_floating_point():
        return value
    return value.detach().to(dtype).requires_grad_(value.requires_grad)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _same(one: Any, other: Any) -> bool:
    return bool(torch.equal(torch.nan_to_num(one.detach()), torch.nan_to_num(other.detach())))


def _normal(random: Any, like: Any) -> np.ndarray:
    dtype = np.dtype(str(like.dtype).removeprefix("torch."))
    values = np.asarray(random.standard_normal(like.shape))
    return (values + 1j * random.standard_normal(like.shape) if dtype.kind == "c" else values).astype(dtype)


def compare(
    ours: Any, theirs: Any, what: str, values: bool = True, tolerance: float = TOLERANCE, canonical: bool = True
) -> None:
    """Raises Mismatch where structure, shape, dtype or values differ."""
    if isinstance(theirs, (tuple, list)):
        if not isinstance(ours, (tuple, list)) or len(ours) != len(theirs):
            raise Mismatch(f"{what}: expected {len(theirs)} values, got {type(ours).__name__}")
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            compare(one, other, f"{what} {i}", values, tolerance, canonical)
        return
    if not _is_tensor(theirs):
        if ours != theirs:
            raise Mismatch(f"{what}: {ours}, torch has {theirs}")
        return
    if not isinstance(ours, jax.Array):
        raise Mismatch(f"{what}: expected an array, got {type(ours).__name__}")
    expected = theirs.detach().resolve_conj().resolve_neg().numpy()
    if ours.shape != expected.shape:
        raise Mismatch(f"{what}: shape {ours.shape}, torch has {expected.shape}")
    wanted = jax.dtypes.canonicalize_dtype(expected.dtype) if canonical else expected.dtype
    if ours.dtype != wanted:
        raise Mismatch(f"{what}: {ours.dtype}, torch has {expected.dtype}")
    if not values:
        return
    got = np.asarray(ours)
    if expected.dtype.kind not in "fc":
        close = got == expected
    else:
        finite = np.abs(expected[np.isfinite(expected)])
        limit = tolerance * (1 + float(finite.max(initial=0)))
        with np.errstate(invalid="ignore"):
            close = (np.abs(got - expected) <= limit) | (got == expected) | (np.isnan(got) & np.isnan(expected))
    if not close.all():
        first = tuple(map(int, np.argwhere(~close)[0]))
        raise Mismatch(
            f"{what}: {int((~close).sum())} of {close.size} values differ, first at {first}: {got[first]}, torch has "
            f"{expected[first]}"
        )
