"""Whole models: forward in evaluation mode, the training step as users of each library write it, and compile time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contenders import Contenders, Wrong, check, torch_threads
from harness import Call
from models import MODELS, batch

import fnn

RATE = 1e-5  # small, so that hundreds of steps on the same batch do not change what is computed
CONTENDERS = ("fnn", "stock", "torch", "torch.compile", "flax", "equinox")


def of_torch(name: str, training: bool, state: Any = None, compiled: bool = False) -> Call:
    torch = torch_threads()
    torch.manual_seed(0)
    model = MODELS[name](torch.nn).train(training)
    if state is not None:
        model.load_state_dict(state)
    x, y = (torch.tensor(value) for value in batch(name))
    y = y.long().reshape(-1)
    if compiled:
        torch._dynamo.reset()
    run = torch.compile(model, dynamic=False) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), RATE, foreach=True)

    def forward() -> Any:
        with torch.no_grad():
            return run(x)

    def step() -> Any:
        optimizer.zero_grad()
        logits = run(x)
        loss = torch.nn.functional.cross_entropy(logits.reshape(len(y), -1), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step if training else forward


def fnn_parts(name: str, training: bool, state: Any = None) -> tuple[Any, tuple[Any, ...]]:
    """The compiled function, and its arguments."""
    model = MODELS[name](fnn.nn)
    if state is not None:
        model.load_state_dict(state)
    model.train(training)
    x, y = (jnp.asarray(value) for value in batch(name))
    if not training:
        return fnn.jit(lambda model, x: model(x)), (model, x)
    optimizer = fnn.optim.Optimizer(model, optax.adamw(RATE, weight_decay=0.01))

    @fnn.jit
    def step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
        def loss(model: Any) -> Any:
            return fnn.nn.functional.cross_entropy(model(x).reshape(y.size, -1), y.reshape(-1))

        value, grads = fnn.value_and_grad(loss)(model)
        optimizer.step(grads)
        return value

    return step, (model, optimizer, x, y)


def of_fnn(name: str, training: bool, state: Any = None, plain: bool = False) -> Call:
    function, arguments = fnn_parts(name, training, state)

    def call() -> Any:
        with fnn.plain_kernels(plain):
            return jax.block_until_ready(function(*arguments))

    return call


def of_flax(name: str, training: bool) -> Call:
    from flax import nnx
    from models_flax import MODELS as BUILD

    model = BUILD[name](nnx.Rngs(0))
    (model.train if training else model.eval)()
    x, y = batch(name)
    x, y = jnp.asarray(np.moveaxis(x, 1, -1) if x.ndim == 4 else x), jnp.asarray(y)
    if not training:
        forward = nnx.jit(lambda model, x: model(x))
        return lambda: jax.block_until_ready(forward(model, x))
    optimizer = nnx.Optimizer(model, optax.adamw(RATE, weight_decay=0.01), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
        def loss(model: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    return lambda: jax.block_until_ready(step(model, optimizer, x, y))


def of_equinox(name: str, training: bool) -> Call:
    import equinox as eqx
    from models_equinox import MODELS as BUILD
    from models_equinox import keys

    model, state = eqx.nn.make_with_state(BUILD[name])(keys())
    model = model if training else eqx.nn.inference_mode(model)
    x, y = (jnp.asarray(value) for value in batch(name))

    def apply(model: Any, state: Any, x: Any) -> Any:
        return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)

    if not training:
        forward = eqx.filter_jit(lambda model, state, x: apply(model, state, x)[0])
        return lambda: jax.block_until_ready(forward(model, state, x))
    transformation = optax.adamw(RATE, weight_decay=0.01)
    held = [model, state, transformation.init(eqx.filter(model, eqx.is_inexact_array))]

    @eqx.filter_jit
    def step(model: Any, state: Any, moments: Any, x: Any, y: Any) -> Any:
        def loss(model: Any, state: Any) -> Any:
            logits, state = apply(model, state, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state

        (value, state), grads = eqx.filter_value_and_grad(loss, has_aux=True)(model, state)
        updates, moments = transformation.update(grads, moments, eqx.filter(model, eqx.is_inexact_array))
        return value, (eqx.apply_updates(model, updates), state, moments)

    def call() -> Any:
        value, held[:] = jax.block_until_ready(step(*held, x, y))
        return value

    return call


def caller(name: str, contender: str, training: bool, state: Any = None) -> Call:
    makers: dict[str, Callable[[], Call]] = {
        "fnn": lambda: of_fnn(name, training, state),
        "stock": lambda: of_fnn(name, training, state, plain=True),
        "torch": lambda: of_torch(name, training, state),
        "torch.compile": lambda: of_torch(name, training, state, compiled=True),
        "flax": lambda: of_flax(name, training),
        "equinox": lambda: of_equinox(name, training),
    }
    return makers[contender]()


def of_model(name: str, training: bool, peers: tuple[str, ...]) -> Contenders:
    """All contenders; `stock` is fnn on JAX's own operations. Outputs, or the losses of two steps, agree with PyTorch's."""
    torch = torch_threads()
    torch.manual_seed(0)
    state = MODELS[name](torch.nn).state_dict()
    calls: dict[str, Call] = {}
    failures: dict[str, str] = {}
    values: dict[str, Any] = {}
    for contender in CONTENDERS:
        if contender != "fnn" and contender not in peers:
            continue
        try:
            call = caller(name, contender, training, {key: value.clone() for key, value in state.items()})
            values[contender] = [call() for _ in range(2 if training else 1)]
            calls[contender] = call
        except Exception as error:
            if contender in ("fnn", "torch"):
                raise
            failures[contender] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    for contender in ("fnn", "stock"):
        if contender in values and "torch" in values:
            check(f"{contender}, {name},", values[contender], values["torch"], "float32")
    if training and values.get("torch") and not values["torch"][0] > values["torch"][1]:
        raise Wrong(f"the loss of {name} does not fall: {values['torch']}")
    return Contenders(calls, failures, [], False)


def compile_seconds(name: str, plain: bool) -> tuple[float, int]:
    """To trace, lower and compile the training step; and how many lines its program has."""
    jax.clear_caches()
    function, arguments = fnn_parts(name, training=True)
    for parameter in arguments[0].parameters():
        jax.block_until_ready(parameter.value)  # drawn before the clock starts
    with fnn.plain_kernels(plain):
        start = time.perf_counter()
        lowered = function.lower(*arguments)
        lowered.compile()
        seconds = time.perf_counter() - start
        return seconds, lowered.as_text().count("\n")
