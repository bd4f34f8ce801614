"""What weight_norm, spectral_norm and prune share: an attribute of a module that is computed from its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from fnn import scope as _scope
from fnn.arrays import held_dtype
from fnn.nn.parameter import Parameter


class Recomputed:
    """A forward pre-hook that provides an attribute: `Module.__getattr__` asks it each time that the attribute is read.

    So nothing traced is kept in the module, and the attribute is never out of date. torch computes it once a forward.
    """

    @property
    def computes(self) -> str:
        """The name of the attribute."""
        raise NotImplementedError

    def compute(self, module: Any) -> jax.Array:
        """The attribute's value for what the module holds now."""
        raise NotImplementedError

    def __call__(self, module: Any, inputs: Any) -> None:
        """Before forward: takes away what else was set as the attribute since, as torch writes over it."""
        hide(module, self.computes)


def hide(module: Any, name: str) -> None:
    """Takes away a plain attribute, so that the hook is asked for it."""
    scope = _scope.current()
    if name in vars(module):
        if scope is not None:  # what forward itself takes away is not guarded, and is back where forward fails
            scope.set_attribute(module, name, None, traced=False)
        object.__delattr__(module, name)
        _scope.changed()
    elif scope is not None:
        scope.delete_attribute(module, name)


def installed(module: Any, kind: type[Recomputed], name: str) -> int | None:
    """The key, among the forward pre-hooks, of the hook of a kind that computes an attribute; None where there is none."""
    found = (key for key, hook in module._forward_pre_hooks.items() if isinstance(hook, kind) and hook.computes == name)
    return next(found, None)


def derived(source: Parameter, function: Callable[[jax.Array], jax.Array]) -> Parameter:
    """A parameter that holds `function` of another's value, and is drawn as the other one is.

    What has no value yet stays so: building a model draws nothing, and `fnn.pure(module).init` draws it anew.
    """
    draw, own = source._initializer, (source._shape, held_dtype(source._dtype))
    if draw is None:
        return Parameter(function(source.value))
    shape = jax.eval_shape(function, jax.ShapeDtypeStruct(*own)).shape
    result = Parameter(lambda key, shape, dtype: function(draw(key, *own)), shape, source._dtype)
    result._key = source._key
    if source._known() is not None:
        result.value = function(source.value)
    return result
