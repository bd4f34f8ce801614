"""Training checkpoints: a model, its optimizer, the random numbers and the step, in one file or through orbax."""

from __future__ import annotations

import copy
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from fnn import scope as _scope
from fnn.arrays import held_dtype, is_array
from fnn.guards import Stateful
from fnn.nn.handle import Handle
from fnn.nn.modules.module import Module
from fnn.random import Generator, default_generator
from fnn.scope import Scope
from fnn.serialization import CheckpointError, load, save

__all__ = ["CheckpointManager", "load_checkpoint", "save_checkpoint"]

_GENERATOR = "generator"


def save_checkpoint(path: str | os.PathLike[str], /, *, generator: Generator | None = None, **parts: Any) -> None:
    """Writes all that training needs to go on as if it had not stopped, as one file that `torch.load(weights_only=True)` reads.

    The file is a dict of the parts by name. It takes the place of an older one when it is complete. Gradients that
    `fnn.backward` has added up and no step has used are not in it.

    Args:
        path: a file whose name ends with .pt, .pth, .bin or .ckpt.
        generator: what random numbers are drawn from; by default the default generator.
        parts: by any names, what has a `state_dict` and a `load_state_dict` (modules, optimizers, a `GradScaler`, an
            `AveragedModel`, a loader of data), other generators, and plain values: numbers, strings, arrays, containers.

    Raises:
        TypeError: for a value that such a file does not hold.

    Example:
        >>> import fnn, optax, os, tempfile
        >>> net = fnn.nn.Linear(2, 1)
        >>> optimizer = fnn.optim.Optimizer(net, optax.adam(1e-3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "last.pt")
        ...     fnn.save_checkpoint(path, model=net, optimizer=optimizer, step=100)
        ...     fnn.load_checkpoint(path, model=net, optimizer=optimizer)["step"]
        100
    """
    save({name: _state(thing) for name, thing in _with_generator(parts, generator).items()}, path)


def load_checkpoint(path: str | os.PathLike[str], /, *, generator: Generator | None = None, **parts: Any) -> dict[str, Any]:
    """Takes what `save_checkpoint` wrote, or `torch.save` of a dict of states: all of it, or nothing.

    Values go where the ones before are, on a device or sharding.

    Args:
        path: the file.
        generator: as for `save_checkpoint`; left as it is where the file has none.
        parts: what shall take its state, under the names in the file.

    Returns:
        What else the file holds, by name: numbers such as the step, and states that no part was given for.

    Raises:
        CheckpointError: where the file is damaged, or lacks a part.
        RuntimeError: as by `load_state_dict` of the part that does not match, which a note names; so with ValueError.
    """
    states = load(path)
    if not isinstance(states, dict):
        raise CheckpointError(f"{os.fspath(path)}: a checkpoint is a dict of parts, the file holds a {type(states).__name__}")
    things = _with_generator(parts, generator)
    if generator is None and _GENERATOR not in states:
        del things[_GENERATOR]
    _give(things, states, os.fspath(path))
    return {name: state for name, state in states.items() if name not in things}


class CheckpointManager:
    """Training checkpoints through orbax: written in the background, of sharded arrays by each process its part.

    A checkpoint is a folder `directory/step`. The parts are trees of arrays in it, `{"model": {"0.weight": ...}, ...}`,
    which orbax alone reads too; the rest is its `custom_metadata`. Use it in a `with` block, which waits at its end for what
    is still being written.

    Args:
        directory: where the checkpoints are, or a URL that orbax knows, such as "gs://...".
        options: those of `orbax.checkpoint.CheckpointManagerOptions`, such as `max_to_keep=3`, `save_interval_steps=1000` or
            `enable_async_checkpointing=False`.

    Attributes:
        manager: the `orbax.checkpoint.CheckpointManager`: `manager.latest_step()`, `manager.wait_until_finished()`.

    Raises:
        ImportError: where orbax is not installed.

    Example:
        >>> import fnn, optax, pytest, tempfile
        >>> _ = pytest.importorskip("orbax.checkpoint")
        >>> net = fnn.nn.Linear(2, 1)
        >>> optimizer = fnn.optim.Optimizer(net, optax.adam(1e-3))
        >>> with tempfile.TemporaryDirectory() as folder, fnn.CheckpointManager(folder, max_to_keep=2) as checkpoints:
        ...     for step in range(3):
        ...         _ = checkpoints.save(step, model=net, optimizer=optimizer, rate=0.1)
        ...     checkpoints.load(model=net, optimizer=optimizer)
        {'rate': 0.1, 'step': 2}
    """

    def __init__(self, directory: str | os.PathLike[str], **options: Any):
        try:
            import orbax.checkpoint as ocp
        except ImportError as error:
            raise ImportError("fnn.CheckpointManager needs orbax: pip install orbax-checkpoint (or 'fnn[orbax]')") from error
        self._ocp = ocp
        path = os.fspath(directory)
        self.manager = ocp.CheckpointManager(
            path if "://" in path else os.path.abspath(path),
            options=ocp.CheckpointManagerOptions(**options),
            item_handlers=ocp.PyTreeCheckpointHandler(),
        )

    def save(self, step: int, *, generator: Generator | None = None, **parts: Any) -> bool:
        """Starts to write a checkpoint; what is trained may change at once.

        Args:
            step: the number of the checkpoint.
            generator: as for `save_checkpoint`.
            parts: as for `save_checkpoint`; plain values are what JSON holds.

        Returns:
            Whether it is written; not where it is there, or the options say that this step is none to be.

        Raises:
            TypeError: for a value that JSON does not give back as it is.
            ValueError: where a later checkpoint is there, since orbax writes none before it.
        """
        latest = self.manager.latest_step()
        if latest is not None and step < latest:
            raise ValueError(
                f"{self.manager.directory} has step {latest}, so step {step} would not be written: take another directory, or "
                "delete what came later (manager.delete(step))"
            )
        arrays: dict[str, Any] = {}
        rest: dict[str, Any] = {"values": {}, "states": {}}
        for name, thing in _with_generator(parts, generator).items():
            state = _state(thing)
            if state is thing:
                rest["values"][name] = _json(thing, name)
                continue
            if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
                raise TypeError(f"{name}: orbax holds states that are dicts of arrays and of plain values by names")
            given = {key: value for key, value in state.items() if is_array(value)}
            empty = {key: value for key, value in given.items() if not np.size(value)}  # orbax writes none
            arrays[name] = {key: value for key, value in given.items() if key not in empty}
            others = {
                "empty": {key: [list(value.shape), value.dtype.name] for key, value in empty.items()},
                "plain": {key: value for key, value in state.items() if key not in given},
                "metadata": dict(getattr(state, "_metadata", {})),
            }
            rest["states"][name] = _json(others, name)
        return self.manager.save(step, args=self._ocp.args.PyTreeSave(arrays), custom_metadata=rest)

    def load(self, step: int | None = None, *, generator: Generator | None = None, **parts: Any) -> dict[str, Any]:
        """Takes a checkpoint: all of it, or nothing. Arrays are read into the devices and shardings of the values before.

        Args:
            step: its number; by default the last.
            generator: as for `load_checkpoint`.
            parts: what shall take its state; the states of others are not read.

        Returns:
            The plain values by name, and `step`.

        Raises:
            FileNotFoundError: where there is no checkpoint, or none of this number.
            CheckpointError: where it lacks a part.
            RuntimeError: as by `load_checkpoint`.
        """
        self.manager.wait_until_finished()
        step = self.manager.latest_step() if step is None else step
        if step is None:
            raise FileNotFoundError(f"{self.manager.directory} holds no checkpoint")
        things = _with_generator(parts, generator)
        rest = self.manager.metadata(step).custom_metadata
        if not rest or "states" not in rest:
            raise CheckpointError(f"{self.manager.directory}: step {step} was not written by fnn.CheckpointManager")
        if missing := [name for name in things if name not in rest["states"]]:
            raise _lacking(missing, [*rest["states"], *rest["values"]], f"{self.manager.directory}, step {step}")
        own = {name: _own(thing) for name, thing in things.items()}
        saved = self.manager.item_metadata(step)
        how = {name: {key: self._how(array, own[name].get(key)) for key, array in saved[name].items()} for name in things}
        item = jax.tree.map(lambda _: 0, how)
        arrays = self.manager.restore(step, args=self._ocp.args.PyTreeRestore(item, restore_args=how, partial_restore=True))
        states: dict[str, Any] = {}
        for name in things:
            others = rest["states"][name]
            empty = {key: np.zeros(shape, jnp.dtype(dtype)) for key, (shape, dtype) in others["empty"].items()}
            states[name] = OrderedDict({**arrays[name], **empty, **others["plain"]})
            if others["metadata"]:
                states[name]._metadata = others["metadata"]
        _give(things, states, f"{self.manager.directory}, step {step}")
        return {**rest["values"], "step": step}

    def _how(self, saved: Any, own: Any) -> Any:
        """How orbax shall restore an array: into the sharding of what takes it, or for numpy, where that says nothing."""
        array = own._known() if isinstance(own, Handle) else own
        if (
            isinstance(array, jax.Array)
            and array.committed
            and array.shape == saved.shape
            and held_dtype(saved.dtype) == saved.dtype
        ):
            return self._ocp.ArrayRestoreArgs(sharding=array.sharding, global_shape=saved.shape, dtype=saved.dtype)
        return self._ocp.RestoreArgs(restore_type=np.ndarray, dtype=saved.dtype)

    def close(self) -> None:
        """Waits for what is being written, and lets go of what orbax holds."""
        self.manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


class _Access(NamedTuple):
    """How the state of a part is taken and given."""

    take: Callable[[], Any]
    give: Callable[[Any], Any]


def _access(thing: Any) -> _Access | None:
    """None for a plain value."""
    if isinstance(thing, Generator):
        return _Access(thing.get_state, thing.set_state)
    if callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None)):
        return _Access(thing.state_dict, thing.load_state_dict)
    return None


def _state(thing: Any) -> Any:
    """The state of a part; a plain value itself."""
    access = _access(thing)
    return thing if access is None else access.take()


def _own(thing: Any) -> Mapping[str, Any]:
    """What a part holds now; of a module the Parameters and Buffers themselves, so that none is drawn for it."""
    return thing.state_dict(keep_vars=True) if isinstance(thing, Module) else _state(thing)


def _with_generator(parts: Mapping[str, Any], generator: Generator | None) -> dict[str, Any]:
    return {**parts, _GENERATOR: default_generator if generator is None else generator}


def _give(things: Mapping[str, Any], states: Mapping[str, Any], source: str) -> None:
    """Gives parts their states: all of them, or none."""
    if missing := [name for name in things if name not in states]:
        raise _lacking(missing, list(states), source)
    if plain := [name for name, thing in things.items() if _access(thing) is None]:
        raise TypeError(
            f"{', '.join(plain)}: no object that has a load_state_dict; plain values are in what is returned, not given"
        )
    others: list[tuple[_Access, Any]] = []  # those that no scope guards, and their states before
    try:
        with Scope(atomic=True) as scope:
            for name, thing in things.items():
                access = _access(thing)
                assert access is not None
                if not isinstance(thing, Stateful):
                    others.append((access, copy.deepcopy(access.take())))
                try:
                    access.give(states[name])
                except Exception as error:
                    error.add_note(f"In the part {name!r} of {source}; no part has changed.")
                    raise
    except BaseException:
        for access, state in reversed(others):
            access.give(state)
        raise
    _scope.commit(scope.written)


def _lacking(missing: list[str], there: list[Any], source: str) -> CheckpointError:
    return CheckpointError(f"{source}: no part {', '.join(map(repr, missing))}; there are {', '.join(map(str, there))}")


def _json(value: Any, name: str) -> Any:
    """The value, where JSON gives it back as it is."""
    try:
        back = json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: orbax holds arrays of state_dicts, and what JSON holds: {error}") from error
    if repr(back) != repr(value):  # tuples, keys that are numbers
        raise TypeError(f"{name}: JSON gives back another value: {back!r}")
    return value
