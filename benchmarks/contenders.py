"""Who takes part in a layer case: the calls of fnn, PyTorch, torch.compile, Flax NNX, Equinox and JAX's own operation.

Each call waits for its result. All have the same values of inputs and cotangents, as arguments; fnn, PyTorch and the stock
operation have the same parameters too, and their results are compared before anything is timed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from layers import STOCK, Case, Integers

import fnn

PEERS = ("torch", "torch.compile", "stock", "flax", "equinox")


class Form(NamedTuple):
    """A layer in JAX: `function(params, state, *inputs) -> y, new state`."""

    function: Callable[..., tuple[Any, Any]]
    params: Any
    state: Any = {}
    last: bool = False


class Wrong(Exception):
    """Two contenders compute different things."""


def torch_threads() -> Any:
    """torch, with as many threads as JAX has: one for each processor of this process, none of them pinned."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    warnings.filterwarnings("ignore", module="torch")
    return torch


def drawn(case: Case) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [
        draw.integers(given.high, size=given.shape).astype(np.int32)
        if isinstance(given, Integers)
        else draw.standard_normal(given, dtype=np.float32)
        for given in case.inputs
    ]


def transposed(x: np.ndarray, last: bool) -> np.ndarray:
    return np.moveaxis(x, 1, -1) if last and x.ndim > 2 else x


def cast(tree: Any, dtype: Any) -> Any:
    def one(x: Any) -> Any:
        return jnp.asarray(x, dtype) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating) else jnp.asarray(x)

    return jax.tree.map(one, tree)


def fnn_form(module: Any, training: bool) -> Form:
    params, state = fnn.split(module)
    _, apply = fnn.pure(module)

    def function(params: Any, state: Any, *inputs: Any) -> tuple[Any, Any]:
        return apply(params, *inputs, state=state, training=training)

    return Form(function, params, state)


def stock_form(case: Case, of_fnn: Form, training: bool) -> Form:
    def function(params: Any, state: Any, *inputs: Any) -> tuple[Any, Any]:
        given = {"state": state} if state and not training else {}
        return case.stock(params, *inputs, **given), given

    return Form(function, of_fnn.params, of_fnn.state)


def flax_form(build: Callable[..., Any], last: bool, training: bool, dtype: Any) -> Form:
    from flax import nnx

    module = build(nnx, nnx.Rngs(0))
    if not isinstance(module, nnx.Module):
        return Form(lambda params, state, *inputs: (module(*inputs), ()), {}, {}, last)
    (module.train if training else module.eval)()
    for _, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Module):
            for name in {"dtype", "param_dtype"} & set(vars(node)):
                setattr(node, name, dtype)  # as if it were built with it
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def function(params: Any, rest: Any, *inputs: Any) -> tuple[Any, Any]:
        module = nnx.merge(graph, params, rest, copy=True)
        return module(*inputs), nnx.state(module, nnx.BatchStat)

    return Form(function, params, rest, last)


def equinox_form(build: Callable[..., Any], training: bool, dtype: Any) -> Form:
    import equinox as eqx

    built = build(eqx, jax.random.key(0))
    layer, state = built if isinstance(built, tuple) else (built, None)
    layer = layer if training else eqx.nn.inference_mode(layer)
    params, static = eqx.partition(layer, eqx.is_inexact_array)

    def function(params: Any, state: Any, *inputs: Any) -> tuple[Any, Any]:
        layer = eqx.combine(params, static)
        if state is None:
            return jax.vmap(layer)(*inputs), ()
        return jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(*inputs, state)

    return Form(function, params, cast(state, dtype))


def jax_call(form: Form, inputs: list[np.ndarray], cotangent: np.ndarray | None, dtype: Any) -> tuple[Callable[..., Any], Any]:
    """A jitted function of arrays alone, and its arguments: forward, or with a cotangent also all gradients."""
    arrays = [cast(transposed(x, form.last), dtype) for x in inputs]
    params = cast(form.params, dtype)
    if cotangent is None:
        return jax.jit(form.function), (params, form.state, *arrays)
    floating = [i for i, x in enumerate(arrays) if jnp.issubdtype(x.dtype, jnp.floating)]

    def gradient(cotangent: Any, params: Any, state: Any, *arrays: Any) -> Any:
        def function(params: Any, *differentiated: Any) -> Any:
            given = list(arrays)
            for i, x in zip(floating, differentiated, strict=True):
                given[i] = x
            return form.function(params, state, *given)

        y, backward, state = jax.vjp(function, params, *(arrays[i] for i in floating), has_aux=True)
        return y, state, backward(cotangent)

    return jax.jit(gradient), (cast(transposed(cotangent, form.last), dtype), params, form.state, *arrays)


def torch_call(layer: Any, inputs: list[np.ndarray], cotangent: np.ndarray | None, dtype: str) -> Callable[[], Any]:
    torch = torch_threads()
    kind = getattr(torch, dtype)
    tensors = [torch.tensor(x) for x in inputs]
    tensors = [x.to(kind) if x.is_floating_point() else x.long() for x in tensors]
    if cotangent is None:

        def forward() -> Any:
            with torch.no_grad():
                return layer(*tensors)

        return forward
    against = torch.tensor(cotangent).to(kind)
    differentiated = [x.requires_grad_() for x in tensors if x.is_floating_point()]
    wanted = [*layer.parameters(), *differentiated]

    def gradient() -> Any:
        y = layer(*tensors)
        return y, torch.autograd.grad(y, wanted, against, allow_unused=True)

    return gradient


def check(name: str, ours: Any, theirs: Any, dtype: str) -> None:
    # The stock operation's sums over a batch have the precision of bfloat16.
    tolerance = 2e-3 if dtype == "float32" else 3e-1 if name.startswith("stock") else 6e-2
    for mine, other in zip(ours, theirs, strict=True):
        mine, other = (np.asarray(x, np.float64) for x in (mine, other))
        if mine.shape != other.shape:
            raise Wrong(f"{name} has the shape {mine.shape}, torch {other.shape}")
        scale = np.abs(other).max(initial=1e-3)
        error = np.abs(mine - other).max(initial=0.0) / scale
        if not error < tolerance:
            raise Wrong(f"{name} differs from torch by {error:.1e} of {scale:.1e}")


class Contenders(NamedTuple):
    """What can be timed, and why the others cannot; the form of those that are the stock operation; whether fnn is, too."""

    calls: dict[str, Callable[[], Any]]
    failures: dict[str, str]
    same: list[str]
    stock_program: bool


def of_case(case: Case, dtype: str, gradient: bool, peers: tuple[str, ...]) -> Contenders:
    """All contenders of a case. `fnn` and `torch` agree, or this raises."""
    torch = torch_threads()
    kind = getattr(jnp, dtype)
    inputs = drawn(case)
    torch.manual_seed(0)
    eager = case.layer(torch.nn)
    ours = case.layer(fnn.nn)
    ours.load_state_dict(eager.state_dict())
    exact = case.layer(torch.nn).train(gradient)
    eager = eager.to(getattr(torch, dtype)).train(gradient)
    exact.load_state_dict(eager.state_dict())
    ours = ours.to(kind).train(gradient)
    like = torch_call(eager, inputs, None, dtype)()
    cotangent = np.random.default_rng(1).standard_normal(tuple(like.shape), dtype=np.float32) if gradient else None

    form = fnn_form(ours, gradient)
    makers: dict[str, Callable[[], Form]] = {"fnn": lambda: form, "stock": lambda: stock_form(case, form, gradient)}
    if callable(case.flax):
        makers["flax"] = lambda: flax_form(case.flax, case.last, gradient, kind)
    if callable(case.equinox):
        makers["equinox"] = lambda: equinox_form(case.equinox, gradient, kind)
    calls: dict[str, Callable[[], Any]] = {}
    failures: dict[str, str] = {}
    results: dict[str, Any] = {}
    stock_program = False
    for name, maker in makers.items():
        if name != "fnn" and name not in peers:
            continue
        try:
            made = maker()
            known = sum(x.size for x in jax.tree.leaves(made.params))
            if known < 0.9 * sum(x.numel() for x in eager.parameters()):  # of LSTM and GRU, the peers have one bias less
                raise Wrong(f"{name} has {known} parameters")
            function, arguments = jax_call(made, inputs, cotangent, kind)
            calls[name] = lambda function=function, arguments=arguments: jax.block_until_ready(function(*arguments))
            results[name] = calls[name]()
        except Exception as error:
            if name == "fnn":
                raise
            calls.pop(name, None)
            failures[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        if name == "fnn":
            with fnn.plain_kernels():
                plain, _ = jax_call(form, inputs, cotangent, kind)
                stock_program = plain.lower(*arguments).as_text() == function.lower(*arguments).as_text()

    rounded = [np.asarray(cast(x, kind), x.dtype) for x in inputs]
    against = None if cotangent is None else np.asarray(cast(cotangent, kind), np.float32)
    given = torch_call(exact, rounded, against, "float32")()
    compare("fnn", results["fnn"], given, eager, gradient, dtype)
    if "stock" in results:
        try:
            compare("stock", results["stock"], given, eager, gradient, dtype)
        except Wrong as error:
            del calls["stock"]
            failures["stock"] = str(error)
    if "torch" in peers:
        calls["torch"] = torch_call(eager, inputs, cotangent, dtype)
    if "torch.compile" in peers:
        torch._dynamo.reset()
        try:
            compiled = torch_call(torch.compile(eager, dynamic=False), inputs, cotangent, dtype)
            compiled()
            calls["torch.compile"] = compiled
        except Exception as error:
            failures["torch.compile"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    same = [name for name in ("flax", "equinox") if getattr(case, name) == STOCK and name in peers and "stock" in calls]
    return Contenders(calls, failures, same, stock_program)


def compare(name: str, got: Any, expected: Any, eager: Any, gradient: bool, dtype: str) -> None:
    """fnn or the stock operation against torch: the output and all gradients."""

    def number(x: Any) -> np.ndarray:
        return np.asarray(x.detach().float())

    if not gradient:
        return check(f"{name}, forward,", [jnp.asarray(got[0], jnp.float32)], [number(expected)], dtype)
    (y, grads), (mine, _, (of_params, *of_inputs)) = expected, got
    names = [key for key, _ in eager.named_parameters()]
    ordered = [jnp.asarray(_at(of_params, key), jnp.float32) for key in names]
    ordered += [jnp.asarray(x, jnp.float32) for x in of_inputs]
    pairs = [(a, number(b)) for a, b in zip(ordered, grads, strict=True) if b is not None]
    check(f"{name}, output,", [jnp.asarray(mine, jnp.float32)], [number(y)], dtype)
    return check(f"{name}, gradient,", *zip(*pairs, strict=True), dtype)


def _at(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = tree[part]
    return tree
