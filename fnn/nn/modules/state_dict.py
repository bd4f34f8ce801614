"""State dicts: the values of a module under torch's names, taken and given."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fnn import scope as _scope
from fnn.arrays import as_array
from fnn.guards import Stateful, touch
from fnn.nn.handle import Handle
from fnn.nn.modules.hooks import HookRegistry, RemovableHandle, add_hook
from fnn.nn.parameter import is_lazy
from fnn.scope import Scope

Hook = Callable[..., Any]
_EXTRA_STATE = "_extra_state"


class _IncompatibleKeys(NamedTuple):
    """The keys of a state_dict that `load_state_dict` found no place for, and those it missed."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


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

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> _IncompatibleKeys:
        """Takes the values of a state_dict, such as PyTorch's, with no mapping of names. All of them, or none.

        Args:
            state_dict: jax or numpy arrays or torch tensors (any dtype, also those that require a gradient) by name.
            strict: whether the keys must be exactly those of this module.
            assign: take the values' dtypes too, instead of converting to the module's.

        Returns:
            The missing and unexpected keys.

        Raises:
            RuntimeError: lists all missing, unexpected and wrongly shaped keys at once; the module is unchanged.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        metadata = getattr(state_dict, "_metadata", None)
        missing: list[str] = []
        unexpected: list[str] = []
        errors: list[str] = []

        def load(module: Any, values: Mapping[str, Any], prefix: str) -> None:
            local = {} if metadata is None else metadata.get(prefix[:-1], {})
            if assign:
                local = {**local, "assign_to_params_buffers": True}
            state: OrderedDict[str, Any] = OrderedDict((key, value) for key, value in values.items() if key.startswith(prefix))
            if metadata is not None:
                state._metadata = metadata  # type: ignore[attr-defined]
            module._load_from_state_dict(state, prefix, local, True, missing, unexpected, errors)
            for name, child in module._modules.items():
                if child is not None:
                    load(child, state, f"{prefix}{name}.")
            keys = _IncompatibleKeys(missing, unexpected)
            for hook in list(module._load_state_dict_post_hooks.values()):
                if hook(module, keys) is not None:
                    raise AssertionError(
                        "Hooks registered with ``register_load_state_dict_post_hook`` are not expected to return new values, "
                        "if incompatible_keys need to be modified, it should be done inplace."
                    )

        with Scope(atomic=True) as scope:
            load(self, state_dict, "")
            if strict:
                for kind, keys in (("Unexpected", unexpected), ("Missing", missing)):
                    if keys:
                        errors.insert(0, f"{kind} key(s) in state_dict: " + ", ".join(f'"{key}"' for key in keys) + ". ")
            if errors:
                raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(errors))
        _scope.commit(scope.written)
        return _IncompatibleKeys(missing, unexpected)


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
    try:
        handle.value = as_array(value, None if assign else handle.declared_dtype)
    except (OverflowError, TypeError, ValueError) as error:
        return f'While copying the parameter named "{key}": {error}'
    return None
