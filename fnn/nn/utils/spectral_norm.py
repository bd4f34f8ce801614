"""Spectral normalization by a forward pre-hook; `parametrizations.spectral_norm` is its successor."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from fnn import scope as _scope
from fnn.arrays import as_array
from fnn.functional import normalize
from fnn.nn import init
from fnn.nn.modules.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from fnn.nn.modules.module import Module
from fnn.nn.parameter import Buffer, is_lazy
from fnn.nn.utils.recomputed import Recomputed, derived, hide, installed

__all__ = [
    "SpectralNorm",
    "SpectralNormLoadStateDictPreHook",
    "SpectralNormStateDictHook",
    "remove_spectral_norm",
    "spectral_norm",
]

M = TypeVar("M", bound=Module)


class SpectralNorm(Recomputed):
    """The hook of `spectral_norm`.

    Attributes:
        name: the parameter that it computes.
        dim: the axis of outputs.
        n_power_iterations: how often a forward in training mode improves the estimate.
        eps: the least norm that vectors are divided by.
    """

    _version: int = 1

    def __init__(self, name: str = "weight", n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12):
        self.name = name
        self.dim = dim
        if n_power_iterations <= 0:
            raise ValueError(f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}")
        self.n_power_iterations = n_power_iterations
        self.eps = eps

    @property
    def computes(self) -> str:
        """The name of the parameter."""
        return self.name

    def reshape_weight_to_matrix(self, weight: Any) -> jax.Array:
        """The weight as a matrix: outputs by everything else."""
        weight = jnp.asarray(weight)
        if self.dim != 0:
            if not 0 <= self.dim < weight.ndim:
                raise RuntimeError(
                    f"spectral_norm: expected dim from 0 to {weight.ndim - 1} for {weight.shape}, got {self.dim}"
                )
            weight = jnp.moveaxis(weight, self.dim, 0)
        return weight.reshape(len(weight), -1)

    def compute_weight(self, module: Module, do_power_iteration: bool) -> jax.Array:
        """`W / (uᵀ W v)`, where u and v estimate the first singular vectors; improves them first, where asked to."""
        weight, u, v = (jnp.asarray(getattr(module, self.name + part)) for part in ("_orig", "_u", "_v"))
        matrix = self.reshape_weight_to_matrix(weight)
        if do_power_iteration:
            fixed = jax.lax.stop_gradient(matrix)
            for _ in range(self.n_power_iterations):
                v = normalize(u @ fixed, dim=0, eps=self.eps)
                u = normalize(fixed @ v, dim=0, eps=self.eps)
            getattr(module, self.name + "_u").value = u
            getattr(module, self.name + "_v").value = v
        return weight / (u @ (matrix @ v))

    def compute(self, module: Any) -> jax.Array:
        """The normalized weight, for the values that the module holds now."""
        return self.compute_weight(module, do_power_iteration=False)

    def __call__(self, module: Any, inputs: Any) -> None:
        """Before forward: improves the estimate, in training mode."""
        super().__call__(module, inputs)
        if module.training:
            self.compute_weight(module, do_power_iteration=True)

    @staticmethod
    def apply(module: Module, name: str, n_power_iterations: int, dim: int, eps: float) -> SpectralNorm:
        """Puts the hook, a parameter and two buffers in the place of a parameter."""
        if installed(module, SpectralNorm, name) is not None:
            raise RuntimeError(f"Cannot register two spectral_norm hooks on the same parameter {name}")
        hook = SpectralNorm(name, n_power_iterations, dim, eps)
        weight = module._parameters[name]
        if weight is None:
            raise ValueError(f"spectral_norm cannot be applied as parameter `{name}` is None")
        if is_lazy(weight):
            raise ValueError(
                f"spectral_norm: parameter '{name}' is uninitialized; call the module once with an example before applying it"
            )
        matrix = jax.eval_shape(hook.reshape_weight_to_matrix, jax.ShapeDtypeStruct(weight.shape, weight.dtype))

        def unit(key: Any, shape: Any, dtype: Any) -> jax.Array:
            return normalize(init.normal()(key, shape, dtype), dim=0, eps=eps)

        del module._parameters[name]
        module.register_parameter(name + "_orig", weight)
        # Until the first forward, code that initialises module.weight is to reach the parameter, as in torch.
        vars(module)[name] = weight
        _scope.changed()
        for part, size in zip(("_u", "_v"), matrix.shape, strict=True):
            module.register_buffer(name + part, Buffer(unit, (size,), weight._dtype))
        module.register_forward_pre_hook(hook)
        module._register_state_dict_hook(SpectralNormStateDictHook(hook))
        module._register_load_state_dict_pre_hook(SpectralNormLoadStateDictPreHook(hook))
        return hook

    def remove(self, module: Module) -> None:
        """Makes what it computes now a parameter again."""
        weight = derived(module._parameters[self.name + "_orig"], lambda weight: weight)
        weight.value = self.compute(module)
        hide(module, self.name)
        for part in ("_u", "_v", "_orig"):
            delattr(module, self.name + part)
        module._parameters[self.name] = weight


class SpectralNormLoadStateDictPreHook:
    """Lets a module load what versions of torch before 1.1 wrote: the computed weight, and no `weight_v`.

    Args:
        fn: the hook of `spectral_norm`.
    """

    def __init__(self, fn: SpectralNorm):
        self.fn = fn

    def __call__(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        hook, key = self.fn, prefix + self.fn.name
        version = local_metadata.get("spectral_norm", {}).get(hook.name + ".version")
        if version is not None and version >= 1:
            return
        if version is None and key not in state_dict and all(key + part in state_dict for part in ("_orig", "_u", "_v")):
            return  # as it is written now, only that the metadata is lost
        if missing := [key + part for part in ("_orig", "", "_u") if key + part not in state_dict]:
            missing_keys.extend(missing if strict else ())
            return
        weight, u = as_array(state_dict[key + "_orig"]), as_array(state_dict[key + "_u"])
        sigma = (weight / as_array(state_dict.pop(key))).mean()
        # The v with normalize(W v) = u and uᵀ W v = sigma; W need not have an inverse.
        matrix = hook.reshape_weight_to_matrix(weight)
        v = jnp.linalg.pinv(matrix.T @ matrix) @ (matrix.T @ u)
        state_dict[key + "_v"] = v * (sigma / (u @ (matrix @ v)))


class SpectralNormStateDictHook:
    """Writes the version of the hook's state into the metadata of a state_dict.

    Args:
        fn: the hook of `spectral_norm`.
    """

    def __init__(self, fn: SpectralNorm):
        self.fn = fn

    def __call__(self, module: Module, state_dict: Any, prefix: str, local_metadata: Any) -> None:
        versions, key = local_metadata.setdefault("spectral_norm", {}), self.fn.name + ".version"
        if key in versions:
            raise RuntimeError(f"Unexpected key in metadata['spectral_norm']: {key}")
        versions[key] = self.fn._version


def spectral_norm(
    module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> M:
    """Divides a parameter by an estimate of its spectral norm, `W / σ(W)`; `weight_orig` is what is trained.

    A power iteration in each forward in training mode improves the estimate, which the buffers `weight_u` and `weight_v`
    hold: `σ = uᵀ W v`. From the first forward on, `module.weight` is computed whenever it is read.

    Args:
        module: the module that has the parameter.
        name: the parameter; as a matrix, it has one row an output.
        n_power_iterations: how many iterations a forward does.
        eps: the least norm that vectors are divided by.
        dim: the axis of outputs; by default 0, and 1 for transposed convolutions.

    Returns:
        The module.

    Raises:
        RuntimeError: where the parameter has one already.
        ValueError: where it is None, where its shape is not known yet, or n_power_iterations is not positive.

    Example:
        >>> import fnn.nn as nn
        >>> layer = spectral_norm(nn.Linear(20, 40))
        >>> layer.weight_u.shape, layer.weight_v.shape
        ((40,), (20,))

    References:
        Miyato et al., Spectral Normalization for Generative Adversarial Networks, https://arxiv.org/abs/1802.05957
    """
    if dim is None:
        dim = 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)) else 0
    SpectralNorm.apply(module, name, n_power_iterations, dim, eps)
    return module


def remove_spectral_norm(module: M, name: str = "weight") -> M:
    """Makes a parameter with `spectral_norm` an ordinary one again, with the value that it has now; returns the module.

    Raises:
        ValueError: where it has none.

    Example:
        >>> import fnn.nn as nn
        >>> [name for name, _ in remove_spectral_norm(spectral_norm(nn.Linear(2, 2))).named_parameters()]
        ['bias', 'weight']
    """
    key: Any = installed(module, SpectralNorm, name)
    if key is None:
        raise ValueError(f"spectral_norm of '{name}' not found in {module}")
    fn = module._forward_pre_hooks.pop(key)
    fn.remove(module)
    for hooks in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
        for key, hook in list(hooks.items()):
            if getattr(getattr(hook, "hook", hook), "fn", None) is fn:
                del hooks[key]
    return module
