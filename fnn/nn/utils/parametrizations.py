"""Ready parametrizations, `torch.nn.utils.parametrizations`: orthogonal matrices, weight and spectral normalization."""

from __future__ import annotations

import functools
import math
from enum import Enum, auto
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from fnn import random as _random
from fnn.functional.checks import accumulating, array, axis
from fnn.functional.normalization import normalize
from fnn.nn.modules.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from fnn.nn.modules.module import Module
from fnn.nn.parameter import Buffer, Handle
from fnn.nn.utils.parametrize import register_parametrization
from fnn.nn.utils.weight_norm import norm_except_dim

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]

M = TypeVar("M", bound=Module)


def _weight(module: Module, name: str) -> Any:
    weight = getattr(module, name, None)
    if not isinstance(weight, (jax.Array, Handle)):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    return weight


def _adjoint(x: jax.Array) -> jax.Array:
    return jnp.matrix_transpose(x).conj()


def _diagonal(x: jax.Array) -> jax.Array:
    return jnp.diagonal(x, axis1=-2, axis2=-1)


def _is_orthogonal(q: jax.Array) -> jax.Array:
    eye = jnp.eye(q.shape[-1], dtype=q.dtype)
    return jnp.allclose(_adjoint(q) @ q, eye, atol=10.0 * q.shape[-2] * float(jnp.finfo(q.dtype).eps))


def _make_orthogonal(x: jax.Array) -> jax.Array:
    """The Q of the QR decomposition of a tall matrix whose R has no negative number on its diagonal."""
    q, r = jnp.linalg.qr(x)
    return q * jnp.sign(_diagonal(r).real).astype(q.dtype)[..., None, :]


def _reflections(x: jax.Array) -> jax.Array:
    """The first columns of a product of Householder reflections, whose vectors are the columns of 1 plus a strict triangle.

    In the form `1 − V T Vᵀ`, whose T is the inverse of the upper triangle of `VᵀV` with half of its diagonal (Joffrain et al.,
    Accumulating Householder Transformations, Revisited, 2006), it is all matrix products, with derivatives of any order.
    """
    n, k = x.shape[-2:]
    eye = jnp.eye(n, k, dtype=x.dtype)
    v = jnp.tril(x, -1) + eye
    products = jnp.matrix_transpose(v) @ v
    inverse = jnp.triu(products) - 0.5 * _diagonal(products)[..., None] * jnp.eye(k, dtype=x.dtype)
    return eye - v @ lax.linalg.triangular_solve(inverse, jnp.matrix_transpose(v[..., :k, :]), left_side=True)


def _matrix_exp(x: jax.Array) -> jax.Array:
    """The exponential of matrices: their Taylor polynomial of degree 12, scaled and squared; NaN for norms above a million.

    `jax.scipy.linalg.expm` solves a linear system for one of five rational functions; this is several times faster, and to
    compile too.
    """
    most = 20  # squarings; the norm that they begin with leaves an error below that of rounding
    norm = lax.stop_gradient(jnp.abs(x).sum(-2).max(initial=0))
    times = jnp.maximum(jnp.ceil(jnp.log2(norm)) + (2 if norm.dtype == jnp.float64 else 0), 0)
    x = x * jnp.exp2(-times)
    square = x @ x
    cube = square @ x
    terms = [jnp.eye(x.shape[-1], dtype=x.dtype), x, square]
    y = cube / math.factorial(12)
    for i in (9, 6, 3, 0):
        y = (y @ cube if i < 9 else y) + sum(term / math.factorial(i + k) for k, term in enumerate(terms))

    def step(y: Any, i: Any) -> Any:
        return lax.cond(i < times, lambda y: y @ y, lambda y: y, y), None

    return jnp.where(times > most, jnp.nan, lax.scan(step, y, jnp.arange(most))[0])


class _OrthMaps(Enum):
    matrix_exp = auto()
    cayley = auto()
    householder = auto()


class _Orthogonal(Module):
    """What `orthogonal` registers.

    Attributes:
        base: a buffer with the orthogonal matrix that the original turns, with `use_trivialization`.
    """

    base: Any

    def __init__(self, weight: Any, orthogonal_map: _OrthMaps, *, use_trivialization: bool = True):
        super().__init__()
        if jnp.issubdtype(weight.dtype, jnp.complexfloating) and orthogonal_map == _OrthMaps.householder:
            raise ValueError("The householder parametrization does not support complex tensors.")
        self.shape = tuple(weight.shape)
        self.orthogonal_map = orthogonal_map
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, x: Any) -> jax.Array:
        base = getattr(self, "base", None)  # without a value where it is not the first parametrization
        return _turned(x, None if base is None else base.value, self.orthogonal_map)

    def right_inverse(self, value: Any) -> jax.Array:
        given = array(value, "value")
        if given.shape != self.shape:
            raise ValueError(
                f"Expected a matrix or batch of matrices of shape {self.shape}. Got a tensor of shape {given.shape}."
            )
        if hasattr(self, "base"):
            self.base = _completed(given, _random.next_key())
            return jnp.broadcast_to(-jnp.eye(given.shape[-2], given.shape[-1], dtype=given.dtype), given.shape)
        if self.orthogonal_map == _OrthMaps.householder:
            return _factors(given)
        raise NotImplementedError(
            "It is not possible to assign to the matrix exponential or the Cayley parametrizations when "
            "use_trivialization=False."
        )


def _upright(x: jax.Array) -> tuple[jax.Array, bool]:
    """A matrix with no fewer rows than columns, in at least 32 bits; and whether it is the transpose of what is given."""
    wide = x.shape[-2] < x.shape[-1]
    return accumulating(jnp.matrix_transpose(x) if wide else x), wide


@functools.partial(jax.jit, static_argnums=2)
def _turned(given: jax.Array, base: jax.Array | None, orthogonal_map: _OrthMaps) -> jax.Array:
    """The orthogonal matrix of an original."""
    x, transposed = _upright(given)
    n, k = x.shape[-2:]
    if orthogonal_map == _OrthMaps.householder:
        # The diagonal holds signs: it takes no gradient, and what is less than 1 counts as nothing, as in torch.
        q = _reflections(x) * lax.stop_gradient(jnp.trunc(_diagonal(x)))[..., None, :]
    else:
        x = jnp.pad(jnp.tril(x), [(0, 0)] * (x.ndim - 1) + [(0, n - k)])
        skew = x - _adjoint(x)
        if orthogonal_map == _OrthMaps.matrix_exp:
            q = _matrix_exp(skew)
        else:
            eye = jnp.eye(n, dtype=x.dtype)
            q = jnp.linalg.solve(eye - skew / 2, eye + skew / 2)
        q = q[..., :k]
    q = q if base is None else base.astype(q.dtype) @ q
    return (jnp.matrix_transpose(q) if transposed else q).astype(given.dtype)


@jax.jit
def _factors(given: jax.Array) -> jax.Array:
    """The vectors of the reflections that make up a matrix, with signs on the diagonal."""
    q, transposed = _upright(given)
    raw, tau = jnp.linalg.qr(q, mode="raw")
    factors = jnp.matrix_transpose(raw)
    signs = jnp.sign(_diagonal(factors)) * jnp.where(tau == 0, -1, 1)
    factors = jnp.where(jnp.eye(q.shape[-2], q.shape[-1], dtype=bool), signs[..., None, :], factors)
    return (jnp.matrix_transpose(factors) if transposed else factors).astype(given.dtype)


@jax.jit
def _completed(given: jax.Array, key: jax.Array) -> jax.Array:
    """A square orthogonal matrix whose first columns are those of a matrix, made orthogonal."""
    q, _ = _upright(given)
    n, k = q.shape[-2:]
    if n == k:
        return jnp.where(_is_orthogonal(q), q, _make_orthogonal(q)).astype(given.dtype)
    others = jax.random.normal(key, (*q.shape[:-1], n - k), q.dtype)
    return _make_orthogonal(jnp.concatenate([q, others], -1)).astype(given.dtype)


def orthogonal(module: M, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True) -> M:
    """Computes a matrix, or a batch of them, that is orthogonal, or unitary where complex.

    A matrix (m, n) has orthonormal columns where m ≥ n, and orthonormal rows otherwise. With `A = X − Xᴴ` of the lower triangle
    X of the original it is `exp(A)`, or `(1 + A/2)(1 − A/2)⁻¹`, or it is a product of Householder reflections.

    Args:
        module: the module.
        name: the parameter or buffer, (..., m, n).
        orthogonal_map: "matrix_exp", "cayley" or "householder"; by default matrix_exp for square and complex matrices, and
            householder for others.
        use_trivialization: whether the original turns a fixed orthogonal matrix, the buffer `base`, so that any orthogonal
            matrix can be assigned, and the initial one is the value that there is, made orthogonal.

    Returns:
        The module.

    Raises:
        ValueError: where there is no such matrix, for another map, and for complex matrices and householder.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> weight = orthogonal(nn.Linear(20, 40)).weight
        >>> bool(jnp.allclose(weight.T @ weight, jnp.eye(20), atol=1e-4))
        True

    References:
        Lezcano-Casado, Trivializations for Gradient-Based Optimization on Manifolds, https://arxiv.org/abs/1909.09501
    """
    weight = _weight(module, name)
    if weight.ndim < 2:
        raise ValueError(f"Expected a matrix or batch of matrices. Got a tensor of {weight.ndim} dimensions.")
    if orthogonal_map is None:
        simple = weight.shape[-2] == weight.shape[-1] or jnp.issubdtype(weight.dtype, jnp.complexfloating)
        orthogonal_map = "matrix_exp" if simple else "householder"
    if orthogonal_map not in _OrthMaps.__members__:
        raise ValueError(f'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". Got: {orthogonal_map}')
    parametrization = _Orthogonal(weight, _OrthMaps[orthogonal_map], use_trivialization=use_trivialization)
    return register_parametrization(module, name, parametrization, unsafe=True)


class _WeightNorm(Module):
    """What `weight_norm` registers."""

    def __init__(self, dim: int | None = 0):
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Any, weight_v: Any) -> jax.Array:
        return weight_v * (weight_g / norm_except_dim(weight_v, self.dim))

    def right_inverse(self, weight: Any) -> tuple[jax.Array, jax.Array]:
        return norm_except_dim(weight, self.dim), weight


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Computes a parameter as `g v / ‖v‖`, from a magnitude g, `original0`, and a direction v, `original1`.

    Args:
        module: the module.
        name: the parameter or buffer.
        dim: the axis each slice of which has its own norm, usually that of the outputs; None for one norm of the whole.

    Returns:
        The module. It also loads state dicts of the older `fnn.nn.utils.weight_norm`.

    Example:
        >>> import fnn.nn as nn
        >>> layer = weight_norm(nn.Linear(20, 40))
        >>> layer.parametrizations.weight.original0.shape, layer.parametrizations.weight.original1.shape
        ((40, 1), (40, 20))

    References:
        Salimans and Kingma, Weight Normalization, https://arxiv.org/abs/1602.07868
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)
    module._register_load_state_dict_pre_hook(functools.partial(_rename_weight_norm, name))
    return module


def _rename_weight_norm(name: str, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    old = [f"{prefix}{name}_g", f"{prefix}{name}_v"]
    if all(key in state_dict for key in old):
        for i, key in enumerate(old):
            state_dict[f"{prefix}parametrizations.{name}.original{i}"] = state_dict.pop(key)


class _SpectralNorm(Module):
    """What `spectral_norm` registers.

    Attributes:
        _u, _v: buffers with the first singular vectors, as far as power iterations have found them.
    """

    def __init__(self, weight: Any, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12):
        super().__init__()
        ndim = weight.ndim
        if not -ndim <= dim < ndim:
            raise IndexError(f"Dimension out of range (expected to be in range of [-{ndim}, {ndim - 1}] but got {dim})")
        if n_power_iterations <= 0:
            raise ValueError(f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}")
        self.dim = axis(dim, ndim)
        self.eps = eps
        if ndim > 1:
            self.n_power_iterations = n_power_iterations
            matrix = jax.eval_shape(functools.partial(_matrix, dim=self.dim), weight)
            for name, size in zip(("_u", "_v"), matrix.shape, strict=True):
                self.register_buffer(name, Buffer(jnp.zeros(size, weight.dtype)))
            self._estimate(weight)

    def _estimate(self, weight: Any) -> None:
        """Draws vectors, and brings them near to the singular ones."""
        if weight.ndim > 1:
            self._u.value, self._v.value = _begun(weight, _random.next_key(), self.dim, self.eps)

    def forward(self, weight: Any) -> jax.Array:
        if weight.ndim == 1:
            return normalize(weight, dim=0, eps=self.eps)
        times = self.n_power_iterations if self.training else 0
        result, u, v = _normalized(weight, self._u.value, self._v.value, self.dim, self.eps, times)
        if times:
            self._u.value, self._v.value = u, v
        return result

    def right_inverse(self, value: Any) -> Any:
        return value


def _matrix(weight: Any, dim: int) -> jax.Array:
    weight = jnp.moveaxis(jnp.asarray(weight), dim, 0)
    return weight.reshape(len(weight), -1)


def _iterated(matrix: jax.Array, u: jax.Array, v: jax.Array, eps: float, times: int) -> tuple[jax.Array, jax.Array]:
    """The vectors after some power iterations."""

    def step(_: Any, vectors: Any) -> Any:
        u = normalize(matrix @ vectors[1], dim=0, eps=eps)
        return u, normalize(_adjoint(matrix) @ u, dim=0, eps=eps)

    return lax.fori_loop(0, times, step, (u, v))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _begun(weight: jax.Array, key: jax.Array, dim: int, eps: float) -> tuple[jax.Array, jax.Array]:
    """Random vectors after 15 power iterations, as torch does."""
    matrix = _matrix(weight, dim)
    u, v = (
        normalize(jax.random.normal(part, (size,), matrix.dtype), dim=0, eps=eps)
        for part, size in zip(jax.random.split(key), matrix.shape, strict=True)
    )
    return _iterated(matrix, u, v, eps, 15)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _normalized(
    weight: jax.Array, u: jax.Array, v: jax.Array, dim: int, eps: float, times: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The weight divided by the estimate of its norm after some power iterations, and the vectors then."""
    matrix = _matrix(weight, dim)
    u, v = _iterated(lax.stop_gradient(matrix), u, v, eps, times)
    return weight / jnp.vdot(u, matrix @ v), u, v


def spectral_norm(
    module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> M:
    """Divides a parameter by an estimate of its spectral norm, `W / (uᴴ W v)`; a vector by its norm.

    The buffers `_u` and `_v` estimate the first singular vectors. Each time that the parameter is read in training mode, power
    iterations improve them; reading it once in a forward, several uses notwithstanding, is what `parametrize.cached` is for.

    Args:
        module: the module.
        name: the parameter or buffer; as a matrix it has one row for each index of `dim`.
        n_power_iterations: how many iterations each time.
        eps: the least norm that vectors are divided by.
        dim: the axis of outputs; by default 0, and 1 for transposed convolutions.

    Returns:
        The module.

    Raises:
        IndexError: where it has no axis `dim`.
        ValueError: where there is no such parameter, or `n_power_iterations` is not positive.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = spectral_norm(nn.Linear(3, 2), n_power_iterations=30)
        >>> jnp.linalg.norm(layer.weight, 2).round(3).item()
        1.0

    References:
        Miyato et al., Spectral Normalization for Generative Adversarial Networks, https://arxiv.org/abs/1802.05957
    """
    weight = _weight(module, name)
    if dim is None:
        dim = 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)) else 0
    return register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))
