"""Gates: identities at the inputs and the outputs of a module call, which let Python functions see and change gradients.

A gate is a linear JAX primitive. Forward mode passes it as it passes any identity; its transpose, which is where a
gradient comes by on its way back, calls the functions. Under `jit` that happens while tracing. Nothing else in JAX does
both: `custom_vjp` forbids forward mode, and `custom_derivatives.linear_call` calls its functions with tracers only.

The gate of the inputs hands a scalar, the token, on to the gate of the outputs. The token varies where an input does, which
tells whether a gradient of the inputs will come; and since it does, JAX transposes the outputs first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from fnn.guards import weakly

Gradients = tuple[Any, ...]

_TOKEN = -1  # its place among the values of a gate


class _Held:
    """Some objects, held until `loosen`, and weakly after that."""

    def __init__(self, things: Iterable[Any]):
        self._get: list[Callable[[], Any]] = [_strongly(thing) for thing in things]

    def things(self) -> list[Any]:
        """Those that are still there."""
        return [thing for get in self._get if (thing := get()) is not None]

    def loosen(self) -> None:
        """Keeps none of them alive."""
        self._get = [weakly(thing) for thing in self.things()]


def _strongly(thing: Any) -> Callable[[], Any]:
    return lambda: thing


class Crossing:
    """One call of a module whose gradients are looked at.

    Args:
        module: what the functions get as their first argument.
        pre_hooks: `hook(module, grad_output)` returns None or another grad_output.
        hooks: `hook(module, grad_input, grad_output)` returns None or another grad_input.
    """

    def __init__(self, module: Any, pre_hooks: Iterable[Callable[..., Any]], hooks: Iterable[Callable[..., Any]]):
        self._module, self._pre_hooks, self._hooks = _Held([module]), _Held(pre_hooks), _Held(hooks)
        self.sizes = {"inputs": 0, "outputs": 0}
        self._token: Any = None
        self._grad_output: Gradients | None = None

    def inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The positional arguments of a module, those that are arrays behind a gate."""
        self._token = jnp.zeros(())
        return self._pass("inputs", args)

    def outputs(self, result: Any) -> Any:
        """What forward returned, behind a gate where it is an array or a tuple."""
        if isinstance(result, tuple):
            passed = self._pass("outputs", result)
            return type(result)(*passed) if hasattr(result, "_fields") else passed
        if not isinstance(result, jax.Array):
            warnings.warn(
                "For backward hooks to be called, module output should be an array or a tuple of arrays but received "
                f"{type(result)}",
                stacklevel=2,
            )
        return self._pass("outputs", (result,))[0]

    def _pass(self, side: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        self.sizes[side] = len(values)
        places = tuple(i for i, value in enumerate(values) if _is_differentiable(value))
        arrays = [values[i] for i in places]
        self._token, *arrays = _gate.bind(self._token, *arrays, crossing=self, side=side, places=(_TOKEN, *places))
        passed = list(values)
        for i, array in zip(places, arrays, strict=True):
            passed[i] = array
        if side == "outputs":
            self._token = None  # the crossing outlives the trace in what JAX keeps
        return tuple(passed)

    def came(self, side: str, last: bool, gradients: Gradients) -> Gradients:
        """Calls the functions, now that gradients of one side are there; returns what takes their place.

        Args:
            side: "outputs", then "inputs".
            last: whether no gradient of the inputs will come.
            gradients: one for each value on that side, or None.
        """
        (module,) = self._module.things() or (None,)
        if module is None:
            return gradients
        if side == "inputs":
            grad_output, self._grad_output = self._grad_output, None
            for hook in self._hooks.things() if grad_output is not None else ():
                gradients = _replaced("Backward hook", "grad_input", gradients, hook(module, gradients, grad_output))
            self.loosen()
            return gradients
        for hook in self._pre_hooks.things():
            gradients = _replaced("Backward pre hook", "grad_output", gradients, hook(module, gradients))
        if not last:
            self._grad_output = gradients
            return gradients
        if hooks := self._hooks.things():
            self._call_without_inputs(module, hooks, gradients)
        self.loosen()
        return gradients

    def loosen(self) -> None:
        """Holds the module and the functions weakly from now on: JAX keeps what it has traced, and this with it."""
        for held in (self._module, self._pre_hooks, self._hooks):
            held.loosen()

    def _call_without_inputs(self, module: Any, hooks: Iterable[Callable[..., Any]], grad_output: Gradients) -> None:
        warnings.warn(
            "Full backward hook is firing when gradients are computed with respect to module outputs since no inputs require "
            "gradients.",
            stacklevel=2,
        )
        nothing = (None,) * self.sizes["inputs"]
        for hook in hooks:
            result = hook(module, nothing, grad_output)
            if result is not None and not (isinstance(result, tuple) and all(value is None for value in result)):
                raise RuntimeError(
                    "Backward hook for Modules where no input requires gradient should always return None or None for all "
                    "gradients."
                )


def _is_differentiable(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.inexact)


def _replaced(what: str, name: str, gradients: Gradients, result: Any) -> Gradients:
    if result is None:
        return gradients
    if len(result) != len(gradients):
        raise RuntimeError(f"{what} returned an invalid number of {name}, got {len(result)}, but expected {len(gradients)}")
    for old, new in zip(gradients, result, strict=True):
        if old is not None and new is not None and jnp.shape(old) != jnp.shape(new):
            raise RuntimeError(f"{what} has changed the size of value: expected {jnp.shape(old)}, got {jnp.shape(new)}")
    return tuple(result)


_gate = Primitive("fnn_gate")
_gate.multiple_results = True
_gate.def_impl(lambda *arrays, **_: list(arrays))
_gate.def_abstract_eval(lambda *avals, **_: list(avals))
mlir.register_lowering(_gate, lambda _, *operands, **__: list(operands))


def _derivative(
    primals: Any, tangents: Any, *, crossing: Crossing, side: str, places: tuple[int, ...]
) -> tuple[list[Any], list[Any]]:
    results = list(tangents)
    if side == "inputs" and places[0] == _TOKEN:
        results[0] = ad.instantiate_zeros(results[0])
    varying = [i for i, tangent in enumerate(results) if not isinstance(tangent, ad.Zero)]
    passed = _gate.bind(*(results[i] for i in varying), crossing=crossing, side=side, places=tuple(places[i] for i in varying))
    for i, tangent in zip(varying, passed, strict=True):
        results[i] = tangent
    return _gate.bind(*primals, crossing=crossing, side=side, places=places), results


def _transpose(cotangents: Any, *operands: Any, crossing: Crossing, side: str, places: tuple[int, ...]) -> list[Any]:
    gradients: list[Any] = [None] * crossing.sizes[side]
    for place, cotangent in zip(places, cotangents, strict=True):
        if place != _TOKEN and not (side == "outputs" and isinstance(cotangent, ad.Zero)):
            gradients[place] = ad.instantiate_zeros(cotangent)  # as in torch, where an input has no effect
    changed = crossing.came(side, _TOKEN not in places, tuple(gradients))
    results: list[Any] = []
    for place, operand in zip(places, operands, strict=True):
        value = jnp.zeros(()) if place == _TOKEN else changed[place]
        if value is None or not ad.is_undefined_primal(operand):
            results.append(None)
        else:
            results.append(jnp.asarray(value, operand.aval.dtype))
    return results


def _batch(arrays: Any, dims: Any, **params: Any) -> tuple[Any, Any]:
    return _gate.bind(*arrays, **params), dims


ad.primitive_jvps[_gate] = _derivative
ad.primitive_transposes[_gate] = _transpose
batching.primitive_batchers[_gate] = _batch
