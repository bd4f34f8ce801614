"""State dicts: the values of a module under torch's names, taken and given."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn import scope as _scope
from fnn.arrays import as_array, beside, from_tensor, held_dtype, is_tensor
from fnn.guards import Stateful, touch
from fnn.nn.handle import Handle
from fnn.nn.modules.hooks import HookRegistry, RemovableHandle, add_hook
from fnn.nn.parameter import is_lazy
from fnn.scope import Scope

Hook = Callable[..., Any]
_EXTRA_STATE = "_extra_state"
_CHUNK = 1 << 18  # values that are compared at once, so that this takes little memory

_Losses = dict[tuple[np.dtype, np.dtype], list[str]]  # the names of values that a conversion changed, by the dtypes
_losses: ContextVar[_Losses | None] = ContextVar("fnn_losses", default=None)  # of the load_state_dict that runs


class _IncompatibleKeys(NamedTuple):
    """The keys of a state_dict that `load_state_dict` found no place for, and those it missed."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"_IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class StateDictMixin(Stateful):
    """What a Module does with state dicts, their hooks and extra state."""

    _version: int = 1

    def _init_state_dict_hooks(self) -> None:
        for name in (
            "_state_dict_hooks",
            "_state_dict_hooks_in_place",
            "_state_dict_pre_hooks",
            "_load_state_dict_pre_hooks",
            "_load_state_dict_pre_hooks_with_module",
            "_load_state_dict_post_hooks",
        ):
            self.__dict__[name] = HookRegistry()

    def register_state_dict_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Calls `hook(module, prefix, keep_vars)` before `state_dict` takes the values of this module."""
        return add_hook(self._state_dict_pre_hooks, hook)

    def register_state_dict_post_hook(self, hook: Hook) -> RemovableHandle:
        """Calls `hook(module, state_dict, prefix, local_metadata)` after it; the hook may change the dict, and returns None."""
        return add_hook(self._state_dict_hooks, hook, self._state_dict_hooks_in_place)

    def _register_state_dict_hook(self, hook: Hook) -> RemovableHandle:
        """As `register_state_dict_post_hook`; at the root, a dict that it returns takes the place of the other."""
        return add_hook(self._state_dict_hooks, hook)

    def register_load_state_dict_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Calls a hook before this module takes values of a state_dict.

        Args:
            hook: `hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)`; it
                may change the dict and the lists.
        """
        return self._register_load_state_dict_pre_hook(hook, with_module=True)

    def _register_load_state_dict_pre_hook(self, hook: Hook, with_module: bool = False) -> RemovableHandle:
        flags = [self._load_state_dict_pre_hooks_with_module] if with_module else []
        return add_hook(self._load_state_dict_pre_hooks, hook, *flags)

    def register_load_state_dict_post_hook(self, hook: Hook) -> RemovableHandle:
        """Calls `hook(module, incompatible_keys)` after this module and those in it took values of a state_dict.

        The hook may change the lists `missing_keys` and `unexpected_keys`; what is in them then counts.
        """
        return add_hook(self._load_state_dict_post_hooks, hook)

    def get_extra_state(self) -> Any:
        """What `state_dict` shall hold beside parameters and buffers; a subclass defines it together with `set_extra_state`."""
        raise RuntimeError(f"{type(self).__name__} defines no get_extra_state")

    def set_extra_state(self, state: Any) -> None:
        """Takes what `get_extra_state` gave."""
        raise RuntimeError(f"{type(self).__name__} defines no set_extra_state")

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, handle in self._own_state().items():
            destination[prefix + name] = handle if keep_vars else handle.exported()
        if type(self).get_extra_state is not StateDictMixin.get_extra_state:
            destination[prefix + _EXTRA_STATE] = self.get_extra_state()

    def _own_state(self) -> dict[str, Handle]:
        """The parameters and persistent buffers of this module itself."""
        return {
            name: handle
            for registry, skip in (("_parameters", ()), ("_buffers", self._non_persistent_buffers_set))
            for name, handle in self.__dict__[registry].items()
            if handle is not None and name not in skip
        }

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The values of all parameters and persistent buffers, by torch's names and in torch's order.

        Args:
            args: `destination`, `prefix` and `keep_vars` by position, which torch deprecates.
            destination: a dict to add them to.
            prefix: what the names start with.
            keep_vars: give the Parameters and Buffers themselves.

        Returns:
            An OrderedDict of jax arrays (numpy arrays for 64-bit buffers), with torch's `_metadata`.

        Example:
            >>> import fnn
            >>> list(fnn.nn.BatchNorm1d(3).state_dict())
            ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
        """
        if args:
            warnings.warn("Positional args are being deprecated, use kwargs instead.", FutureWarning, stacklevel=2)
            by_position = dict(zip(("destination", "prefix", "keep_vars"), args, strict=False))
            return self.state_dict(**{"destination": destination, "prefix": prefix, "keep_vars": keep_vars} | by_position)
        if destination is None:
            destination = OrderedDict()
            destination._metadata = OrderedDict()
        touch(self)
        local_metadata = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = local_metadata
        for hook in list(self._state_dict_pre_hooks.values()):
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, module in self._modules.items():
            if module is not None:
                module.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for key, hook in list(self._state_dict_hooks.items()):
            result = hook(self, destination, prefix, local_metadata)
            if result is None:
                continue
            if key in self._state_dict_hooks_in_place:
                raise RuntimeError("state_dict post-hook must return None")
            destination = result
        return destination

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        others = (state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        for key, hook in list(self._load_state_dict_pre_hooks.items()):
            hook(self, *others) if key in self._load_state_dict_pre_hooks_with_module else hook(*others)
        own = self._own_state()
        for name, handle in own.items():
            key = prefix + name
            if key not in state_dict:
                if strict:
                    missing_keys.append(key)
                continue
            error = _give(handle, key, state_dict[key], bool(local_metadata.get("assign_to_params_buffers")))
            if error is not None:
                error_msgs.append(error)
        extra = prefix + _EXTRA_STATE
        takes_extra = type(self).set_extra_state is not StateDictMixin.set_extra_state
        if takes_extra and extra in state_dict:
            self.set_extra_state(state_dict[extra])
        elif takes_extra and strict:
            missing_keys.append(extra)
        if strict:
            for key in state_dict:
                if key.startswith(prefix) and not (takes_extra and key == extra):
                    name, dot, _ = key[len(prefix) :].partition(".")
                    if name not in (self._modules if dot else own):
                        unexpected_keys.append(key)

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,
        assign: bool = False,
        *,
        prefix: str = "",
        rename: Mapping[str, str] | Callable[[str], str | None] | None = None,
    ) -> _IncompatibleKeys:
        """Takes the values of a state_dict, such as PyTorch's, with no mapping of names. All of them, or none.

        Values are converted to the dtypes of the module, with a warning that lists where that changes them. Those that are on
        no particular device go where the old ones are.

        Args:
            state_dict: jax or numpy arrays or torch tensors (any dtype, also those that require a gradient) by name.
            strict: whether the keys must be exactly those of this module.
            assign: take the values' dtypes too, instead of converting to the module's.
            prefix: what names in the state_dict start with that is no part of them here, such as "module." of
                DistributedDataParallel. Names without it stay what they are.
            rename: what names in the state_dict are called here, after `prefix` is gone: a mapping from regular expressions to
                what stands in the place of each match (`re.sub`, one after the other), or a function from name to name,
                or to None for what shall be left out.

        Returns:
            The missing and unexpected keys.

        Raises:
            RuntimeError: lists all missing, unexpected and wrongly shaped keys at once, and values that do not fit their
                dtype; or the names that become one. The module is unchanged.

        Example:
            >>> import fnn, jax.numpy as jnp
            >>> state = {"module.fc.gamma": jnp.ones(3), "module.fc.bias": jnp.zeros(3)}
            >>> net = fnn.nn.ModuleDict({"head": fnn.nn.LayerNorm(3)})
            >>> net.load_state_dict(state, prefix="module.", rename={"^fc": "head", "gamma$": "weight"})
            <All keys matched successfully>
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        if prefix or rename is not None:
            state_dict = _renamed(state_dict, prefix, rename)
        metadata = getattr(state_dict, "_metadata", None)
        missing: list[str] = []
        unexpected: list[str] = []
        errors: list[str] = []
        losses: _Losses = {}

        def load(module: Any, state: OrderedDict[str, Any], prefix: str) -> None:
            local = {} if metadata is None else metadata.get(prefix[:-1], {})
            if assign:
                local = {**local, "assign_to_params_buffers": True}
            if metadata is not None:
                state._metadata = metadata  # type: ignore[attr-defined]
            module._load_from_state_dict(state, prefix, local, True, missing, unexpected, errors)
            below: dict[str, OrderedDict[str, Any]] = {}
            for key, value in state.items():
                if key.startswith(prefix):
                    name, dot, _ = key[len(prefix) :].partition(".")
                    if dot:
                        below.setdefault(name, OrderedDict())[key] = value
            for name, child in module._modules.items():
                if child is not None:
                    load(child, below.get(name, OrderedDict()), f"{prefix}{name}.")
            keys = _IncompatibleKeys(missing, unexpected)
            for hook in list(module._load_state_dict_post_hooks.values()):
                if hook(module, keys) is not None:
                    raise AssertionError(
                        "Hooks registered with ``register_load_state_dict_post_hook`` are not expected to return new values, "
                        "if incompatible_keys need to be modified, it should be done inplace."
                    )

        with Scope(atomic=True) as scope:
            noted = _losses.set(losses)
            try:
                load(self, OrderedDict(state_dict), "")
            finally:
                _losses.reset(noted)
            if strict:
                for kind, keys in (("Unexpected", unexpected), ("Missing", missing)):
                    if keys:
                        errors.insert(0, f"{kind} key(s) in state_dict: " + ", ".join(f'"{key}"' for key in keys) + ". ")
            if errors:
                raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(errors))
        _scope.commit(scope.written)
        if losses:
            warnings.warn(_told(losses, type(self).__name__), stacklevel=2)
        return _IncompatibleKeys(missing, unexpected)


def _renamed(state_dict: Mapping[str, Any], prefix: str, rename: Any) -> OrderedDict[str, Any]:
    """The entries under the names that the module has for them, with the metadata of their modules."""
    if rename is None or callable(rename):
        change = rename or (lambda name: name)
    elif isinstance(rename, Mapping):
        patterns = [(re.compile(pattern), replacement) for pattern, replacement in rename.items()]

        def change(name: str) -> str:
            for pattern, replacement in patterns:
                name = pattern.sub(replacement, name)
            return name

    else:
        raise TypeError(f"rename is a mapping from patterns to replacements or a function, not {type(rename).__name__}")
    sources: dict[str, list[str]] = {}
    for name in state_dict:
        new = change(name.removeprefix(prefix))
        if new is not None:
            sources.setdefault(new, []).append(name)
    if collisions := [f"{', '.join(names)} become {new}" for new, names in sources.items() if len(names) > 1]:
        raise RuntimeError(f"several names of the state_dict become one: {'; '.join(collisions)}")
    renamed = OrderedDict((new, state_dict[name]) for new, (name,) in sources.items())
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:
        renamed._metadata = OrderedDict()  # type: ignore[attr-defined]
        for new, (name,) in sources.items():
            while new:  # modules that an entry is in, from the innermost, are renamed as it is
                new, name = new.rpartition(".")[0], name.rpartition(".")[0]
                if name in metadata:
                    renamed._metadata.setdefault(new, metadata[name])  # type: ignore[attr-defined]
    return renamed


def _give(handle: Handle, key: str, value: Any, assign: bool) -> str | None:
    """Gives a parameter or buffer the value that a state_dict has for it; returns what is wrong with it, if anything."""
    if is_lazy(value) and is_lazy(handle):
        return None
    if isinstance(value, (str, bytes)) or not (hasattr(value, "shape") or np.isscalar(value) or isinstance(value, list)):
        return f'While copying the parameter named "{key}", expected an array from checkpoint but received {type(value)}'
    shape = tuple(np.shape(value) if not hasattr(value, "shape") else value.shape)
    if shape == (1,) and handle.shape == ():
        value, shape = value[0], ()  # scalars that torch before 0.4 wrote
    if shape != handle.shape:
        return (
            f"size mismatch for {key}: copying a param with shape {shape} from checkpoint, the shape in current model is "
            f"{handle.shape}."
        )
    source = from_tensor(value) if is_tensor(value) else value
    try:
        with np.errstate(invalid="ignore"):
            array = as_array(source, None if assign else handle.declared_dtype)
        loss = _loss(source, array)
    except (OverflowError, TypeError, ValueError) as error:
        return f'While copying the parameter named "{key}": {error}'
    if loss is not None and (losses := _losses.get()) is not None:
        losses.setdefault(loss, []).append(key)
    handle.value = array if assign else beside(array, handle._known())
    return None


def _loss(source: Any, array: jax.Array) -> tuple[np.dtype, np.dtype] | None:
    """The dtypes that values were converted from and to, where that changed them.

    Raises:
        OverflowError: where one is out of the range of the dtype.
    """
    before, after = getattr(source, "dtype", array.dtype), array.dtype
    if before == after or np.can_cast(before, after) or _scope.is_tracer(source) or _scope.is_tracer(array):
        return None
    if not getattr(source, "is_fully_addressable", True):
        return None  # no process sees all of it
    old, new = np.asarray(source).reshape(-1), np.asarray(array).reshape(-1)
    same = True
    for start in range(0, old.size, _CHUNK):
        some, converted = old[start : start + _CHUNK], new[start : start + _CHUNK]
        fits: Any = np.True_
        if jnp.issubdtype(after, jnp.inexact):
            fits = np.isfinite(converted) | ~np.isfinite(some)
        elif jnp.issubdtype(after, jnp.integer):
            fits = (some >= jnp.iinfo(after).min) & (some <= jnp.iinfo(after).max)
        if not fits.all():
            raise OverflowError(f"a value of {before} is out of the range of {after}; convert the module, or pass assign=True")
        with np.errstate(all="ignore"):
            same = same and bool(((converted.astype(some.dtype) == some) | (some != some)).all())
    return None if same else (np.dtype(before), np.dtype(after))


def _told(losses: _Losses, name: str) -> str:
    """The warning of values that conversions changed."""
    kinds = [
        f"{len(keys)} from {before} to {after} ({keys[0]!r}{', ...' if len(keys) > 1 else ''})"
        for (before, after), keys in losses.items()
    ]
    wide = any(held_dtype(before) == after for before, after in losses)
    enable = "enable 64 bits with jax.config.update('jax_enable_x64', True), and " if wide else ""
    return (
        f"values of the state_dict lost precision as they were converted for {name}: {'; '.join(kinds)}. To keep them, {enable}"
        "convert the module first, or pass assign=True, which takes the dtypes of the state_dict."
    )
