"""Hooks: functions that a module calls before and after forward, and when gradients pass it."""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Self

from fnn import guards
from fnn import scope as _scope
from fnn.gates import Crossing
from fnn.guards import Registry, Stateful

Hook = Callable[..., Any]


class HookRegistry(Registry):
    """Hooks by the id of their handle, in the order in which they are called."""

    __slots__ = ("__weakref__",)


class RemovableHandle:
    """Takes a hook away: by `remove()`, or at the end of a `with` block. A copy made with a module is of the copied hook.

    Args:
        hooks_dict: the hooks, by id.
        extra_dict: dicts that say more of the hooks, likewise by id.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> layer = fnn.nn.ReLU()
        >>> with layer.register_forward_hook(lambda module, args, out: out + 1):
        ...     layer(jnp.zeros(2)).tolist()
        [1.0, 1.0]
        >>> layer(jnp.zeros(2)).tolist()
        [0.0, 0.0]
    """

    _ids = itertools.count()

    def __init__(self, hooks_dict: Any, *, extra_dict: Any = ()):
        self.id = next(number for number in self._ids if number not in hooks_dict)  # which may come out of a pickle
        self._dicts = [weakref.ref(hooks) for hooks in (hooks_dict, *extra_dict)]

    def __getstate__(self) -> Any:
        return self.id, [ref() for ref in self._dicts]

    def __setstate__(self, state: Any) -> None:
        self.id, dicts = state
        self._dicts = [weakref.ref(HookRegistry() if hooks is None else hooks) for hooks in dicts]

    def remove(self) -> None:
        """Takes the hook away; a second call does nothing."""
        for ref in self._dicts:
            hooks = ref()
            if hooks is not None and self.id in hooks:
                del hooks[self.id]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.remove()


def add_hook(hooks: Any, hook: Hook, *flags: Any, prepend: bool = False) -> RemovableHandle:
    """Adds a hook to a registry, last or first, and its id to the registries `flags`."""
    handle = RemovableHandle(hooks, extra_dict=flags)
    others = dict(hooks) if prepend else {}
    if others:
        hooks.clear()
    hooks[handle.id] = hook
    hooks.update(others)
    for flag in flags:
        flag[handle.id] = True
    return handle


class HooksMixin(Stateful):
    """What a Module does with hooks of its calls; the hooks of all modules are one more instance.

    Under `fnn.jit`, `jax.jit` and other transformations hooks run while JAX traces: once a trace, with traced values.
    A compiled function follows when hooks are added or removed. What a hook keeps, in a list, dict, object or variable, can
    be used as long as the trace lasts; after `fnn.jit` any use of it raises a StateError, after the eager gradients of fnn
    it is an ordinary array. `fnn.capture(module, names)` returns intermediate values as results.
    """

    _is_full_backward_hook: bool | None

    def _init_hooks(self) -> None:
        for name in (
            "_backward_pre_hooks",
            "_backward_hooks",
            "_forward_hooks",
            "_forward_hooks_with_kwargs",
            "_forward_hooks_always_called",
            "_forward_pre_hooks",
            "_forward_pre_hooks_with_kwargs",
        ):
            self.__dict__[name] = HookRegistry()
        self.__dict__["_is_full_backward_hook"] = None

    def register_forward_pre_hook(self, hook: Hook, *, prepend: bool = False, with_kwargs: bool = False) -> RemovableHandle:
        """Calls `hook(module, args)` before every forward; what it returns, if anything, takes the place of the arguments.

        Args:
            hook: the function; with `with_kwargs` it gets `(module, args, kwargs)` and returns None or `(args, kwargs)`.
            prepend: whether it runs before the hooks that are there.
            with_kwargs: whether it sees keyword arguments.

        Returns:
            A handle whose `remove()` takes the hook away; so do all methods that register hooks.
        """
        flags = [self._forward_pre_hooks_with_kwargs] if with_kwargs else []
        return add_hook(self._forward_pre_hooks, hook, *flags, prepend=prepend)

    def register_forward_hook(
        self, hook: Hook, *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> RemovableHandle:
        """Calls `hook(module, args, output)` after every forward; what it returns, if anything, takes the place of the output.

        Args:
            hook: the function; with `with_kwargs` it gets `(module, args, kwargs, output)`.
            prepend: whether it runs before the hooks that are there.
            with_kwargs: whether it sees keyword arguments.
            always_call: whether it runs also where forward raised; output is then None.
        """
        flags = [self._forward_hooks_with_kwargs] if with_kwargs else []
        if always_call:
            flags.append(self._forward_hooks_always_called)
        return add_hook(self._forward_hooks, hook, *flags, prepend=prepend)

    def register_full_backward_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Calls `hook(module, grad_output)` when gradients of the outputs are there.

        Args:
            hook: the function. `grad_output` is a tuple with one gradient for each output, None for those that are no
                floating point or have none. What it returns, if anything, takes its place.
            prepend: whether it runs before the hooks that are there.
        """
        return add_hook(self._backward_pre_hooks, hook, prepend=prepend)

    def register_full_backward_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Calls `hook(module, grad_input, grad_output)` when gradients of the inputs are there.

        The hook is part of the derivative: it runs wherever a gradient passes the module in reverse mode, by `fnn.backward`
        or any transformation of JAX, and forward mode passes it by.

        Args:
            hook: the function. `grad_input` has one entry for each positional argument, None where it is no array or needs
                no gradient. What it returns, if anything, takes the place of `grad_input`.
            prepend: whether it runs before the hooks that are there.

        Raises:
            RuntimeError: where a hook was added by `register_backward_hook`; in the backward pass, where it returns another
                number of gradients, or other shapes.

        Example:
            >>> import fnn, jax, jax.numpy as jnp
            >>> layer = fnn.nn.ReLU()
            >>> handle = layer.register_full_backward_hook(lambda module, grad_input, grad_output: (grad_input[0] * 10,))
            >>> jax.grad(lambda x: layer(x).sum())(jnp.ones(2)).tolist()
            [10.0, 10.0]
        """
        return self._add_backward_hook(hook, True, prepend)

    def register_backward_hook(self, hook: Hook) -> RemovableHandle:
        """As `register_full_backward_hook`, which takes its place.

        The gradients that it sees are those of the module's inputs. In torch they are those of the last operation in it.
        """
        return self._add_backward_hook(hook, False, False)

    def _add_backward_hook(self, hook: Hook, full: bool, prepend: bool) -> RemovableHandle:
        if self._is_full_backward_hook is not None and self._is_full_backward_hook != full:
            raise RuntimeError(
                "Cannot use both regular backward hooks and full backward hooks on a single Module. Please use only one of "
                "them."
            )
        self._is_full_backward_hook = full
        return add_hook(self._backward_hooks, hook, prepend=prepend)

    def _own_hooks(self) -> Iterator[Hook]:
        for registry in ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"):
            yield from (hook for _, hook in _of(self, registry))

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        scope = _scope.current()
        if scope is not None:
            scope.root.hooked.append(self)
        called: set[int] = set()
        out = None
        try:
            for key, hook in _of(self, "_forward_pre_hooks"):
                if key in self._forward_pre_hooks_with_kwargs:
                    result = hook(self, args, kwargs)
                    if isinstance(result, tuple) and len(result) == 2:
                        args, kwargs = result
                    elif result is not None:
                        raise RuntimeError(
                            f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {result}."
                        )
                else:
                    result = hook(self, args)
                    if result is not None:
                        args = result if isinstance(result, tuple) else (result,)
            crossing = None
            pre_hooks, hooks = _of(self, "_backward_pre_hooks"), _of(self, "_backward_hooks")
            if pre_hooks or hooks:
                crossing = Crossing(self, [hook for _, hook in pre_hooks], [hook for _, hook in hooks])
                args = crossing.inputs(args)
                if scope is not None:
                    scope.root.crossings.append(crossing)
            out = self.forward(*args, **kwargs)
            for key, hook in _of(self, "_forward_hooks"):
                called.add(key)
                result = self._call_forward_hook(key, hook, args, kwargs, out)
                out = out if result is None else result
            return out if crossing is None else crossing.outputs(out)
        except Exception:
            for key, hook in _of(self, "_forward_hooks"):
                if key in called or not _is_flagged(self, "_forward_hooks_always_called", key):
                    continue
                try:
                    result = self._call_forward_hook(key, hook, args, kwargs, out)
                    out = out if result is None else result
                except Exception as error:
                    warnings.warn(
                        "module forward hook with ``always_call=True`` raised an exception that was silenced as another error "
                        f"was raised in forward: {error}",
                        stacklevel=2,
                    )
            raise

    def _call_forward_hook(self, key: int, hook: Hook, args: Any, kwargs: Any, out: Any) -> Any:
        if _is_flagged(self, "_forward_hooks_with_kwargs", key):
            return hook(self, args, kwargs, out)
        return hook(self, args, out)


class _EveryModule(HooksMixin):
    """The hooks of all modules, which run before those of each."""

    def __init__(self) -> None:
        self._init_hooks()
        for name in ("_parameter_registration_hooks", "_buffer_registration_hooks", "_module_registration_hooks"):
            self.__dict__[name] = HookRegistry()


every_module = _EveryModule()
guards.ALWAYS.append(every_module)
hooks_of_every_module = [
    vars(every_module)[name] for name in ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
]


def _of(module: Any, registry: str) -> list[tuple[int, Hook]]:
    return [*vars(every_module)[registry].items(), *getattr(module, registry).items()]


def _is_flagged(module: Any, registry: str, key: int) -> bool:
    return key in getattr(module, registry) or key in vars(every_module)[registry]


def registered(module: Any, kind: str, name: str, value: Any) -> Any:
    """What hooks of all modules make of something that is registered in one."""
    for hook in list(vars(every_module)[f"_{kind}_registration_hooks"].values()):
        result = hook(module, name, value)
        value = value if result is None else result
    return value


def register_module_forward_pre_hook(hook: Hook) -> RemovableHandle:
    """Calls `hook(module, args)` before forward of every module, before the module's own; see `register_forward_pre_hook`."""
    return every_module.register_forward_pre_hook(hook)


def register_module_forward_hook(hook: Hook, *, with_kwargs: bool = False, always_call: bool = False) -> RemovableHandle:
    """Calls `hook(module, args, output)` after forward of every module, before the module's own; see `register_forward_hook`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> from fnn.nn.modules.module import register_module_forward_hook
        >>> with register_module_forward_hook(lambda module, args, out: print(type(module).__name__, out.shape)):
        ...     y = nn.Sequential(nn.Linear(2, 3), nn.ReLU())(jnp.ones((1, 2)))
        Linear (1, 3)
        ReLU (1, 3)
        Sequential (1, 3)
    """
    return every_module.register_forward_hook(hook, with_kwargs=with_kwargs, always_call=always_call)


def register_module_full_backward_pre_hook(hook: Hook) -> RemovableHandle:
    """Calls `hook(module, grad_output)` for every module; see `register_full_backward_pre_hook`."""
    return every_module.register_full_backward_pre_hook(hook)


def register_module_full_backward_hook(hook: Hook) -> RemovableHandle:
    """Calls `hook(module, grad_input, grad_output)` for every module; see `register_full_backward_hook`."""
    return every_module.register_full_backward_hook(hook)


def register_module_backward_hook(hook: Hook) -> RemovableHandle:
    """As `register_module_full_backward_hook`, which takes its place."""
    return every_module.register_backward_hook(hook)


def register_module_parameter_registration_hook(hook: Hook) -> RemovableHandle:
    """Calls `hook(module, name, parameter)` wherever a parameter is registered; what it returns takes the parameter's place."""
    return add_hook(vars(every_module)["_parameter_registration_hooks"], hook)


def register_module_buffer_registration_hook(hook: Hook) -> RemovableHandle:
    """Calls `hook(module, name, buffer)` wherever a buffer is registered; what it returns takes the buffer's place."""
    return add_hook(vars(every_module)["_buffer_registration_hooks"], hook)


def register_module_module_registration_hook(hook: Hook) -> RemovableHandle:
    """Calls `hook(module, name, child)` wherever a child is registered; what it returns takes the child's place."""
    return add_hook(vars(every_module)["_module_registration_hooks"], hook)
