"""Module: the base class of all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import jax
import jax.numpy as jnp

from fnn import scope as _scope
from fnn.arrays import is_array, is_tensor
from fnn.compilation import jit
from fnn.guards import Registry, Stateful, touch
from fnn.nn.handle import Handle
from fnn.nn.modules.conversion import ConversionMixin
from fnn.nn.modules.hooks import (
    HooksMixin,
    RemovableHandle,
    hooks_of_every_module,
    register_module_backward_hook,
    register_module_buffer_registration_hook,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
    registered,
)
from fnn.nn.modules.state_dict import StateDictMixin, _IncompatibleKeys  # noqa: F401 (as torch's module has it)
from fnn.nn.parameter import Buffer, Parameter
from fnn.scope import Cell, Scope
from fnn.transforms import restartable

__all__ = [
    "Module",
    "RemovableHandle",
    "register_module_backward_hook",
    "register_module_buffer_registration_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook",
    "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
]


class _Names(Registry):
    """A set of names whose every change is noted."""

    def add(self, name: str) -> None:
        """Adds a name."""
        self[name] = None

    def discard(self, name: str) -> None:
        """Takes a name away, if it is there."""
        self.pop(name, None)


class Declared:
    """A Parameter or Buffer that modules of a class have under this name: a declaration, for a quick look.

    What a module has without one is found by `__getattr__`, after Python has raised an AttributeError and written its message.
    With it `self.weight` takes 0.35 µs in an eager forward, without it 1.1.

    Args:
        registry: where the module has it.
    """

    def __init__(self, registry: str):
        self.registry = registry

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, kind: type | None = None) -> Any:
        try:
            value = module.__dict__[self.registry][self.name]
        except (AttributeError, KeyError):  # of the class, or not there: then __getattr__ is asked
            raise AttributeError(f"type object '{getattr(kind, '__name__', kind)}' has no attribute '{self.name}'") from None
        touch(module)
        return value


class Module(StateDictMixin, ConversionMixin, HooksMixin):
    """The base class of all layers and models, as `torch.nn.Module`.

    Subclasses call `super().__init__()`, set Parameters, Buffers and Modules as attributes, and define `forward`.

    Attributes:
        training: whether the module is in training mode, as `train()` and `eval()` set it.

    Example:
        >>> import fnn.nn as nn, jax, jax.numpy as jnp
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.hidden = nn.Linear(4, 8)
        ...         self.out = nn.Linear(8, 2)
        ...     def forward(self, x):
        ...         return self.out(jax.nn.relu(self.hidden(x)))
        >>> net = Net()
        >>> net(jnp.ones((3, 4))).shape
        (3, 2)
        >>> [name for name, _ in net.named_parameters()]
        ['hidden.weight', 'hidden.bias', 'out.weight', 'out.bias']
    """

    call_super_init: bool = False
    _compiled_call_impl: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if (args or kwargs) and not self.call_super_init:
            given = f"keyword argument '{next(iter(kwargs))}'" if kwargs else f"{len(args)} positional arguments"
            raise TypeError(f"{type(self).__name__}.__init__() got unexpected {given}: Module takes none")
        self._init_registries()
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    def _init_registries(self) -> None:
        for name, value in (
            ("training", True),
            ("_parameters", Registry()),
            ("_buffers", Registry()),
            ("_non_persistent_buffers_set", _Names()),
            ("_modules", Registry()),
        ):
            self.__dict__[name] = value
        self._init_hooks()
        self._init_state_dict_hooks()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the output; every subclass defines it."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    # Attributes

    @property
    def training(self) -> bool:
        """Whether the module is in training mode."""
        scope = _scope.current()
        if scope is not None:
            touch(self)
            if scope.mode is not _scope.OWN:
                return bool(scope.mode)
        return bool(self.__dict__["training"])

    @training.setter
    def training(self, mode: bool) -> None:
        self.__dict__["training"] = bool(mode)
        _scope.changed()

    def _registry(self, name: str) -> Registry:
        try:
            return self.__dict__[name]
        except KeyError:
            kind = {"_modules": "module", "_buffers": "buffers"}.get(name, "parameters")
            raise AttributeError(
                f"cannot assign {kind} before Module.__init__() call: {type(self).__name__}.__init__ must call "
                "super().__init__() first"
            ) from None

    def __getattr__(self, name: str) -> Any:
        attributes = self.__dict__
        try:
            for registry in ("_parameters", "_buffers", "_modules"):
                held = attributes[registry]
                if name in held:
                    touch(self)
                    return held[name]
        except KeyError:
            raise AttributeError(
                f"'{type(self).__name__}' object has no attribute '{name}': it was used before super().__init__() was called"
            ) from None
        for hook in attributes["_forward_pre_hooks"].values():
            if getattr(hook, "computes", None) == name:  # such as WeightNorm: a weight that is never stored is never stale
                touch(self)
                return hook.compute(self)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        attributes = self.__dict__
        if isinstance(value, Parameter):
            self._make_room(name, "_parameters")
            self.register_parameter(name, value)
        elif name in attributes.get("_parameters", ()):
            if value is not None:
                raise TypeError(f"cannot assign '{type(value).__name__}' as parameter '{name}' (Parameter or None expected)")
            self._parameters[name] = None
        elif isinstance(value, Module):
            self._make_room(name, "_modules")
            self._modules[name] = registered(self, "module", name, value)
        elif name in attributes.get("_modules", ()):
            if value is not None:
                raise TypeError(f"cannot assign '{type(value).__name__}' as child module '{name}' (Module or None expected)")
            self._modules[name] = registered(self, "module", name, None)
        elif isinstance(value, Buffer):
            self._make_room(name, "_buffers")
            self.register_buffer(name, value, value.persistent)
        elif name in attributes.get("_buffers", ()):
            if value is None:
                self._buffers[name] = None
            elif not (is_array(value) or isinstance(value, Handle) or is_tensor(value)):
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as buffer '{name}' (nn.Buffer, array or None expected)"
                )
            elif self._buffers[name] is None:
                self._add_buffer(name, Buffer(value), name not in self._non_persistent_buffers_set)
            else:
                self._buffers[name].value = value
        elif isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _make_room(self, name: str, keep: str) -> None:
        self._registry(keep)
        self.__dict__.pop(name, None)
        for registry in ("_parameters", "_buffers", "_modules"):
            if registry != keep and name in self.__dict__[registry]:
                del self.__dict__[registry][name]

    def __delattr__(self, name: str) -> None:
        for registry in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__[registry]:
                del self.__dict__[registry][name]
                self._non_persistent_buffers_set.discard(name)
                return
        super().__delattr__(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._parameters, *self._buffers, *self._modules})

    # Registration

    def _check_name(self, name: Any, registry: str, kind: str) -> None:
        self._registry(registry)
        if not isinstance(name, str):
            raise TypeError(f"{kind} name should be a string, got {type(name).__name__}")
        if "." in name:
            raise KeyError(f'{kind} name can\'t contain ".", got {name!r}')
        if name == "":
            raise KeyError(f'{kind} name can\'t be empty string ""')
        if hasattr(self, name) and name not in self.__dict__[registry]:
            raise KeyError(f"attribute '{name}' already exists")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Adds a parameter under a name; None reserves the name."""
        self._check_name(name, "_parameters", "parameter")
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"cannot assign '{type(param).__name__}' object to parameter '{name}' (Parameter or None required)")
        if param is not None and name not in param.label:
            param.label = f"Parameter '{name}' of {type(self).__name__}"
        self._parameters[name] = param if param is None else registered(self, "parameter", name, param)

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Adds a buffer under a name; None reserves the name.

        Args:
            name: what it is called.
            tensor: an array, a Buffer, or None.
            persistent: whether `state_dict()` has it.
        """
        self._check_name(name, "_buffers", "buffer")
        buffer = tensor if tensor is None or isinstance(tensor, Buffer) else Buffer(tensor)
        self._add_buffer(name, buffer, persistent)

    def _add_buffer(self, name: str, buffer: Buffer | None, persistent: bool) -> None:
        buffer = registered(self, "buffer", name, buffer)
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)
        if buffer is not None:
            buffer.persistent = persistent
            buffer.label = f"buffer '{name}' of {type(self).__name__}"
        self._buffers[name] = buffer

    def add_module(self, name: str, module: Module | None) -> None:
        """Adds a child module under a name; None reserves the name."""
        if not isinstance(module, Module) and module is not None:
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._check_name(name, "_modules", "module")
        self._modules[name] = registered(self, "module", name, module)

    def register_module(self, name: str, module: Module | None) -> None:
        """As `add_module`."""
        self.add_module(name, module)

    # Iteration

    def named_modules(
        self, memo: set[Any] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all modules in it, with dotted names, in order of registration; each once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        touch(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        """This module and all modules in it; each once, unless `remove_duplicate` is False."""
        for _, module in self.named_modules(remove_duplicate=remove_duplicate):
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules that are attributes of this one, with their names; each once."""
        touch(self)
        seen = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The modules that are attributes of this one; each once."""
        for _, module in self.named_children():
            yield module

    def _named_members(self, registry: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        seen = set()
        if recurse:
            modules: Any = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
        else:
            touch(self)
            modules = [(prefix, self)]
        for path, module in modules:
            for name, handle in getattr(module, registry).items():
                if handle is None or handle in seen:
                    continue
                if remove_duplicate:
                    seen.add(handle)
                yield (f"{path}.{name}" if path else name), handle

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """All parameters with dotted names, in order of registration; a shared one once, under its first name."""
        return self._named_members("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters; a shared one once."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Buffer]]:
        """All buffers with dotted names, in order of registration; a shared one once, under its first name."""
        return self._named_members("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Buffer]:
        """All buffers; a shared one once."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def _named_cells(self, recurse: bool = True) -> dict[str, Handle]:
        """All parameters, then all buffers, by dotted name."""
        return {**dict(self.named_parameters(recurse=recurse)), **dict(self.named_buffers(recurse=recurse))}

    def _cells(self) -> Iterator[Cell]:
        """All parameters and buffers."""
        yield from self.parameters()
        yield from self.buffers()

    def get_submodule(self, target: str) -> Module:
        """The module with a dotted name; the module itself for the empty name.

        Raises:
            AttributeError: where there is none.
        """
        module: Module = self
        for part in target.split(".") if target else ():
            module = module._get(part, Module)
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter with a dotted name.

        Raises:
            AttributeError: where there is none.
        """
        path, _, name = target.rpartition(".")
        return self.get_submodule(path)._get(name, Parameter)

    def get_buffer(self, target: str) -> Buffer:
        """The buffer with a dotted name.

        Raises:
            AttributeError: where there is none.
        """
        path, _, name = target.rpartition(".")
        return self.get_submodule(path)._get(name, Buffer)

    def _get(self, name: str, kind: type[Any]) -> Any:
        value = getattr(self, name, None)
        if value is None and not hasattr(self, name):
            raise AttributeError(f"{self._get_name()} has no attribute `{name}`")
        if not isinstance(value, kind):
            raise AttributeError(f"`{name}` is not an nn.{kind.__name__}")
        return value

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Puts a module under a dotted name.

        Args:
            target: the name; the module that shall hold it must be there.
            module: the module.
            strict: whether a module must have been there.

        Raises:
            ValueError: for an empty name, and for what is no Module.
            AttributeError: where the place is not there, or is taken by something else than a module.
        """
        if target == "":
            raise ValueError("Cannot set the submodule without a target name!")
        if not isinstance(module, Module):
            raise ValueError(f"`module` is not an nn.Module, found {type(module)}")
        path, _, name = target.rpartition(".")
        parent = self.get_submodule(path)
        if strict or hasattr(parent, name):
            parent._get(name, Module)
        setattr(parent, name, module)

    # Modes

    def train(self, mode: bool = True) -> Self:
        """Sets training mode here and in all children; returns the module."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self) -> Self:
        """Sets evaluation mode here and in all children; returns the module."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Sets `requires_grad` of all parameters; returns the module."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Takes away, or sets to zero, the gradients that `fnn.backward` added up."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad = None if set_to_none else jnp.zeros_like(parameter.grad)

    def apply(self, fn: Callable[[Module], None]) -> Self:
        """Calls a function on every module, children first; returns the module."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # Calls

    def compile(self, *args: Any, disable: bool = False, **kwargs: Any) -> None:
        """Compiles calls of this module from now on, as `fnn.jit` does.

        Arrays among the arguments are inputs of what is compiled; other values are compiled in, so new ones compile again.

        Args:
            args: what `torch.compile` takes; it means nothing here.
            disable: whether to call it without compiling again.
            kwargs: as `args`.

        Example:
            >>> import fnn, jax.numpy as jnp
            >>> net = fnn.nn.Linear(2, 1)
            >>> net.compile()
            >>> net(jnp.ones(2)).shape
            (1,)
        """
        self._compiled_call_impl = None if disable else jit(_call_again, static_argnums=1)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls `forward`, and the hooks around it."""
        # The common way in one frame, to save 0.3 µs of a layer's 1.2: JAX walks through the frames for each array it makes.
        scope = _scope.current()
        hooked = self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
        if hooked or scope is None or scope.recorders or self._compiled_call_impl is not None or any(hooks_of_every_module):
            return self._call_otherwise(args, kwargs)
        try:
            return self.forward(*args, **kwargs)
        except Exception as error:
            self._note_place(error)
            raise

    def _call_otherwise(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._compiled_call_impl is not None:
            return self._call_compiled(args, kwargs)
        if _scope.current() is not None:
            return self._call(args, kwargs)

        def attempt(token: bool) -> Any:
            with Scope(token=token) as scope:
                out = self._call(args, kwargs)
            _scope.commit(scope.written)
            return out

        return restartable(self, attempt)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            touch(self)
            hooked = self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
            if hooked or any(hooks_of_every_module):
                return self._call_with_hooks(args, kwargs)
            return self.forward(*args, **kwargs)
        except Exception as error:
            self._note_place(error)
            raise

    def _call_compiled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        places = tuple(i for i, leaf in enumerate(leaves) if is_array(leaf) or isinstance(leaf, Stateful))
        static = tuple(None if i in places else leaf for i, leaf in enumerate(leaves))
        if unhashable := [leaf for leaf in static if type(leaf).__hash__ is None]:
            raise TypeError(
                f"a compiled {type(self).__name__} cannot take a {type(unhashable[0]).__name__}: arguments that are no arrays "
                "are compiled in, and must be hashable"
            )
        return self._compiled_call_impl(self, (tree, places, static), [leaves[i] for i in places])

    def _note_place(self, error: Exception) -> None:
        """Says in the error where in the model it happened: the innermost module, by its path from the outermost."""
        origin = getattr(error, "_fnn_origin", None)
        if "_modules" not in self.__dict__:
            return  # used before super().__init__(), which the error says
        module, note = origin or (self, None)
        if note is not None and note in getattr(error, "__notes__", ()):
            error.__notes__.remove(note)
        path = next((name for name, other in self.named_modules() if other is module), None)
        own = f"{type(module).__name__}({module.extra_repr()})"
        if path is None:
            where = f"in a {own}, called by {type(self).__name__}"
        elif path == "":
            where = f"in {own}"
        else:
            where = f"in {path}: {own}, of {type(self).__name__}"
        error._fnn_origin = (module, where)  # type: ignore[attr-defined]
        error.add_note(where)

    # Copies

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_compiled_call_impl"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Module._init_registries(self)  # what older pickles lack
        self.__dict__.update(state)
        _scope.changed()

    # Representation

    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """What `print` shows of the module itself; subclasses define it."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): " + _addindent(repr(module), 2) for name, module in self._modules.items()]
        if not children and len(lines) <= 1:
            return f"{self._get_name()}({extra})"
        return f"{self._get_name()}(\n  " + "\n  ".join([*lines, *children]) + "\n)"


def _addindent(text: str, spaces: int) -> str:
    """The text with all its lines but the first indented; a helper that model code imports."""
    first, *lines = text.split("\n")
    return "\n".join([first, *(" " * spaces + line if line.strip() else "" for line in lines)])


def _call_again(module: Module, structure: Any, arrays: list[Any]) -> Any:
    tree, places, static = structure
    leaves = list(static)
    for i, array in zip(places, arrays, strict=True):
        leaves[i] = array
    args, kwargs = jax.tree.unflatten(tree, leaves)
    return module._call(args, kwargs)
