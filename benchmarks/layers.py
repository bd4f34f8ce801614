"""One layer, as each contender has it: how a case is declared, and a function a family that declares one from its sizes.

A case says once how torch.nn and fnn.nn build the layer (`layer`, given either), and how JAX's own operations (`stock`, on
torch's parameters and layout), Flax NNX and Equinox do the same, with layers of their own in the layout of their users: Flax
has channels last, Equinox is vmapped over the batch. STOCK stands where their users call JAX's own operation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

STOCK = "stock"
Sizes = tuple[int, ...]


class Integers(NamedTuple):
    """Random integers below `high`, as an input."""

    shape: Sizes
    high: int


@dataclass(frozen=True)
class Case:
    """One layer on inputs of one size.

    Attributes:
        family: what its figures are summed up with.
        name: within the family.
        inputs: shapes of normally distributed numbers, or Integers.
        layer: given torch.nn or fnn.nn, the layer.
        stock: given its parameters as a dict, and the inputs, the same by JAX's operations.
        flax: given flax.nnx and Rngs, the layer or a function; STOCK; or None where Flax has no such thing.
        equinox: given equinox and a key, the layer or a function of one example; STOCK; or None.
        last: whether Flax has the channels last, so that inputs of more than two axes are transposed for it.
        half: whether it is measured in bfloat16, too.
    """

    family: str
    name: str
    inputs: tuple[Sizes | Integers, ...]
    layer: Callable[[Any], Any]
    stock: Callable[..., Any]
    flax: Any = None
    equinox: Any = None
    last: bool = False
    half: bool = False


def text(sizes: Sizes) -> str:
    return f"{sizes[0]}{'²³'[len(sizes) - 2]}" if len(sizes) > 1 and len(set(sizes)) == 1 else "x".join(map(str, sizes))


def _channels_first(d: int) -> tuple[str, str, str]:
    return ("NC" + "DHW"[-d:], "OI" + "DHW"[-d:], "NC" + "DHW"[-d:])


def _per_channel(x: jax.Array, d: int) -> jax.Array:
    return x.reshape(-1, *(1,) * d)


def conv(
    n: int, i: int, o: int, size: Sizes, k: int, stride: int = 1, padding: int = 0, groups: int = 1, half: bool = False
) -> Case:
    d = len(size)
    family = f"conv{d}d" if d != 2 else "conv1x1" if k == 1 else "conv2d"
    family = family if groups == 1 else "depthwise" if groups == i else "grouped"
    named = [text((k,) * d), f"{i}-{o}", f"s{stride}" * (stride > 1), f"g{groups}" * (1 < groups < i), f"N{n}", text(size)]
    pads = [(padding, padding)] * d

    def stock(p: Any, x: Any) -> Any:
        y = lax.conv_general_dilated(
            x, p["weight"], (stride,) * d, pads, dimension_numbers=_channels_first(d), feature_group_count=groups
        )
        return y + _per_channel(p["bias"], d)

    return Case(
        family,
        " ".join(filter(None, named)),
        ((n, i, *size),),
        lambda nn: getattr(nn, f"Conv{d}d")(i, o, k, stride, padding, groups=groups),
        stock,
        lambda nnx, rngs: nnx.Conv(i, o, (k,) * d, stride, padding=pads, feature_group_count=groups, rngs=rngs),
        lambda eqx, key: eqx.nn.Conv(d, i, o, k, stride, padding, groups=groups, key=key),
        last=True,
        half=half,
    )


def conv_transpose(n: int, i: int, o: int, size: Sizes, k: int, stride: int, padding: int = 0, half: bool = False) -> Case:
    d = len(size)
    pads = [(k - 1 - padding,) * 2] * d

    def stock(p: Any, x: Any) -> Any:
        numbers = _channels_first(d)
        y = lax.conv_transpose(x, p["weight"], (stride,) * d, pads, dimension_numbers=numbers, transpose_kernel=True)
        return y + _per_channel(p["bias"], d)

    return Case(
        "transposed",
        f"{d}d {text((k,) * d)} s{stride} {i}-{o} N{n} {text(size)}",
        ((n, i, *size),),
        lambda nn: getattr(nn, f"ConvTranspose{d}d")(i, o, k, stride, padding),
        stock,
        lambda nnx, rngs: nnx.ConvTranspose(i, o, (k,) * d, stride, padding=pads, rngs=rngs),
        lambda eqx, key: eqx.nn.ConvTranspose(d, i, o, k, stride, padding, key=key),
        last=True,
        half=half,
    )


def linear(n: int, i: int, o: int, half: bool = False) -> Case:
    return Case(
        "linear",
        f"{i}-{o} N{n}",
        ((n, i),),
        lambda nn: nn.Linear(i, o),
        lambda p, x: x @ p["weight"].T + p["bias"],
        lambda nnx, rngs: nnx.Linear(i, o, rngs=rngs),
        lambda eqx, key: eqx.nn.Linear(i, o, key=key),
        half=half,
    )


def pool(kind: str, n: int, c: int, size: Sizes, k: int, stride: int, padding: int = 0, half: bool = False) -> Case:
    d = len(size)
    window, strides = (1, 1) + (k,) * d, (1, 1) + (stride,) * d
    pads = [(0, 0)] * 2 + [(padding, padding)] * d

    def stock(_: Any, x: Any) -> Any:
        if kind == "Max":
            return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)
        return lax.reduce_window(x, 0.0, lax.add, window, strides, pads) / k**d

    return Case(
        "pooling",
        f"{kind.lower()} {text((k,) * d)} s{stride} N{n} {c}x{text(size)}",
        ((n, c, *size),),
        lambda nn: getattr(nn, f"{kind}Pool{d}d")(k, stride, padding),
        stock,
        lambda nnx, rngs: lambda x: getattr(nnx, f"{kind.lower()}_pool")(x, (k,) * d, (stride,) * d, pads[2:]),
        lambda eqx, key: getattr(eqx.nn, f"{kind}Pool{d}d")(k, stride, padding),
        last=True,
        half=half,
    )


def batch_norm(n: int, c: int, size: Sizes, half: bool = False) -> Case:
    d = len(size)
    axes = (0, *range(2, d + 2))

    def stock(p: Any, x: Any, state: Any = None) -> Any:
        """Like Flax: the statistics from sums of x and of its squares."""
        if state is None:
            mean, square = x.mean(axes), jnp.square(x).mean(axes)
            variance = square - jnp.square(mean)
        else:
            mean, variance = state["running_mean"], state["running_var"]
        scale = lax.rsqrt(variance + 1e-5) * p["weight"]
        return (x - _per_channel(mean, d)) * _per_channel(scale, d) + _per_channel(p["bias"], d)

    return Case(
        "batch norm",
        f"N{n} {c}x{text(size)}",
        ((n, c, *size),),
        lambda nn: getattr(nn, f"BatchNorm{d}d")(c),
        stock,
        lambda nnx, rngs: nnx.BatchNorm(c, momentum=0.9, epsilon=1e-5, rngs=rngs),
        lambda eqx, key: eqx.nn.make_with_state(eqx.nn.BatchNorm)(c, "batch", momentum=0.9, mode="ema"),
        last=True,
        half=half,
    )


def norm(kind: str, n: int, c: int, size: Sizes = (), groups: int = 1, half: bool = False) -> Case:
    """LayerNorm and RMSNorm of rows, GroupNorm and InstanceNorm of maps."""
    d = len(size)

    def stock(p: Any, x: Any) -> Any:
        y = x.reshape(n, c if kind == "Instance" else groups, -1) if d else x
        mean = 0.0 if kind == "RMS" else y.mean(-1, keepdims=True)
        variance = jnp.square(y - mean).mean(-1, keepdims=True)
        epsilon = jnp.finfo(x.dtype).eps if kind == "RMS" else 1e-5
        y = ((y - mean) * lax.rsqrt(variance + epsilon)).reshape(x.shape)
        y = y * _per_channel(p["weight"], d) if "weight" in p else y
        return y + _per_channel(p["bias"], d) if "bias" in p else y

    torch_layer = {
        "Layer": lambda nn: nn.LayerNorm(c),
        "RMS": lambda nn: nn.RMSNorm(c),
        "Group": lambda nn: nn.GroupNorm(groups, c),
        "Instance": lambda nn: getattr(nn, f"InstanceNorm{d}d")(c),
    }
    flax = {
        "Layer": lambda nnx, rngs: nnx.LayerNorm(c, epsilon=1e-5, rngs=rngs),
        "RMS": lambda nnx, rngs: nnx.RMSNorm(c, rngs=rngs),
        "Group": lambda nnx, rngs: nnx.GroupNorm(c, num_groups=groups, epsilon=1e-5, rngs=rngs),
        "Instance": lambda nnx, rngs: nnx.InstanceNorm(c, epsilon=1e-5, use_scale=False, use_bias=False, rngs=rngs),
    }
    equinox = {
        "Layer": lambda eqx, key: eqx.nn.LayerNorm(c),
        "RMS": lambda eqx, key: eqx.nn.RMSNorm(c, use_bias=False),
        "Group": lambda eqx, key: eqx.nn.GroupNorm(groups, c),
        "Instance": lambda eqx, key: eqx.nn.GroupNorm(c, c, channelwise_affine=False),
    }
    name = f"{n}x{c}" if not d else f"N{n} {c}x{text(size)}"
    return Case(
        f"{kind.lower()} norm",
        name,
        ((n, c, *size),),
        torch_layer[kind],
        stock,
        flax[kind],
        equinox[kind],
        last=True,
        half=half,
    )


def softmax(*shape: int, half: bool = False) -> Case:
    def stock(_: Any, x: Any) -> Any:
        return jax.nn.softmax(x, -1)

    return Case("softmax", text(shape), (shape,), lambda nn: nn.Softmax(-1), stock, STOCK, STOCK, half=half)


ACTIVATIONS = {
    "ReLU": jax.nn.relu,
    "GELU": lambda x: jax.nn.gelu(x, approximate=False),
    "SiLU": jax.nn.silu,
    "Hardswish": jax.nn.hard_swish,
    "Softplus": jax.nn.softplus,
    "ELU": jax.nn.elu,
    "Mish": jax.nn.mish,
    "Sigmoid": jax.nn.sigmoid,
}


def activation(name: str, *shape: int, half: bool = False) -> Case:
    def stock(_: Any, x: Any) -> Any:
        return ACTIVATIONS[name](x)

    named = f"{name} {'x'.join(map(str, shape))}"
    return Case("activation", named, (shape,), lambda nn: getattr(nn, name)(), stock, STOCK, STOCK, half=half)


LOSSES = {
    "CrossEntropyLoss": lambda x, y: optax.softmax_cross_entropy_with_integer_labels(x, y).mean(),
    "MSELoss": lambda x, y: jnp.square(x - y).mean(),
    "BCEWithLogitsLoss": lambda x, y: optax.sigmoid_binary_cross_entropy(x, y).mean(),
    "HuberLoss": lambda x, y: optax.huber_loss(x, y).mean(),
    "L1Loss": lambda x, y: jnp.abs(x - y).mean(),
}


def loss(name: str, *shape: int, half: bool = False) -> Case:
    """The peers' users take optax."""
    target = Integers(shape[:1], shape[1]) if name == "CrossEntropyLoss" else shape
    named = f"{name} {'x'.join(map(str, shape))}"

    def stock(_: Any, x: Any, y: Any) -> Any:
        return LOSSES[name](x, y)

    return Case("loss", named, (shape, target), lambda nn: getattr(nn, name)(), stock, STOCK, STOCK, half=half)


def embedding(n: int, length: int, count: int, width: int, half: bool = False) -> Case:
    def equinox(eqx: Any, key: Any) -> Any:
        class Layer(eqx.Module):
            table: Any = eqx.nn.Embedding(count, width, key=key)

            def __call__(self, x: Any) -> Any:
                return jax.vmap(self.table)(x)

        return Layer()

    return Case(
        "embedding",
        f"{count}x{width} N{n} T{length}",
        (Integers((n, length), count),),
        lambda nn: nn.Embedding(count, width),
        lambda p, x: jnp.take(p["weight"], x, axis=0),
        lambda nnx, rngs: nnx.Embed(count, width, rngs=rngs),
        equinox,
        half=half,
    )


def interpolation(mode: str, n: int, c: int, size: Sizes, scale: int = 2, half: bool = False) -> Case:
    new = (n, c, *(s * scale for s in size))
    method = {"nearest": "nearest", "bilinear": "linear", "bicubic": "cubic"}[mode]

    def stock(_: Any, x: Any) -> Any:
        return jax.image.resize(x, new, method)

    named = f"{mode} x{scale} N{n} {c}x{text(size)}"
    return Case(
        "interpolation",
        named,
        ((n, c, *size),),
        lambda nn: nn.Upsample(scale_factor=scale, mode=mode),
        stock,
        STOCK,
        STOCK,
        half=half,
    )


def function_layer(nn: Any, function: Callable[..., Any]) -> Any:
    class Layer(nn.Module):
        def forward(self, *inputs: Any) -> Any:
            return function(*inputs)

    return Layer()


def attention(
    n: int, heads: int, length: int, width: int, causal: bool = False, padded: bool = False, half: bool = False
) -> Case:
    """scaled_dot_product_attention; padding is a mask of bool that is made of an input."""
    shape = (n, heads, length, width)

    def layer(nn: Any) -> Any:
        def function(q: Any, k: Any, v: Any, *bias: Any) -> Any:
            mask = bias[0] > -1.0 if bias else None
            return nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)

        return function_layer(nn, function)

    def stock(_: Any, q: Any, k: Any, v: Any, *bias: Any) -> Any:
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        mask = bias[0] > -1.0 if bias else None
        return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal).swapaxes(1, 2)

    def flax(nnx: Any, rngs: Any) -> Any:
        def function(q: Any, k: Any, v: Any, *bias: Any) -> Any:
            mask = bias[0] > -1.0 if bias else None
            q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
            return nnx.dot_product_attention(q, k, v, mask=mask, is_causal=causal).swapaxes(1, 2)

        return function

    named = f"{'causal ' * causal}{'x'.join(map(str, shape))}{', padding mask' * padded}"
    inputs: tuple[Any, ...] = (shape,) * 3 + ((n, 1, 1, length),) * padded
    return Case("attention", named, inputs, layer, stock, flax, None, half=half)


def multihead_attention(n: int, length: int, width: int, heads: int, half: bool = False) -> Case:
    def layer(nn: Any) -> Any:
        class Layer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

            def forward(self, x: Any) -> Any:
                return self.attention(x, x, x, need_weights=False)[0]

        return Layer()

    def stock(p: Any, x: Any) -> Any:
        p = p["attention"]
        q, k, v = jnp.split(x @ p["in_proj_weight"].T + p["in_proj_bias"], 3, -1)
        q, k, v = (t.reshape(n, length, heads, -1) for t in (q, k, v))
        y = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        return y @ p["out_proj"]["weight"].T + p["out_proj"]["bias"]

    def equinox(eqx: Any, key: Any) -> Any:
        class Layer(eqx.Module):
            attention: Any = eqx.nn.MultiheadAttention(
                heads, width, use_query_bias=True, use_key_bias=True, use_value_bias=True, use_output_bias=True, key=key
            )

            def __call__(self, x: Any) -> Any:
                return self.attention(x, x, x)

        return Layer()

    return Case(
        "attention",
        f"MultiheadAttention {heads}x{width // heads} N{n} T{length}",
        ((n, length, width),),
        layer,
        stock,
        lambda nnx, rngs: nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs),
        equinox,
        half=half,
    )


def recurrent(kind: str, length: int, n: int, width: int, half: bool = False) -> Case:
    """LSTM or GRU, batch first, input as wide as the state; the sequence of states alone."""

    def layer(nn: Any) -> Any:
        class Layer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell = getattr(nn, kind)(width, width, batch_first=True)

            def forward(self, x: Any) -> Any:
                return self.cell(x)[0]

        return Layer()

    def stock(p: Any, x: Any) -> Any:
        p = p["cell"]
        inputs = x.swapaxes(0, 1) @ p["weight_ih_l0"].T + p["bias_ih_l0"]
        zeros = jnp.zeros((n, width), x.dtype)

        def lstm(carry: Any, mine: Any) -> Any:
            h, c = carry
            i, f, g, o = jnp.split(mine + h @ p["weight_hh_l0"].T + p["bias_hh_l0"], 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        def gru(h: Any, mine: Any) -> Any:
            (a, b, c), (d, e, f) = jnp.split(mine, 3, -1), jnp.split(h @ p["weight_hh_l0"].T + p["bias_hh_l0"], 3, -1)
            z = jax.nn.sigmoid(b + e)
            h = (1 - z) * jnp.tanh(c + jax.nn.sigmoid(a + d) * f) + z * h
            return h, h

        step, first = (lstm, (zeros, zeros)) if kind == "LSTM" else (gru, zeros)
        return lax.scan(step, first, inputs)[1].swapaxes(0, 1)

    def flax(nnx: Any, rngs: Any) -> Any:
        cell = {"LSTM": nnx.OptimizedLSTMCell, "GRU": nnx.GRUCell}[kind]
        return nnx.RNN(cell(width, width, rngs=rngs), rngs=rngs)

    def equinox(eqx: Any, key: Any) -> Any:
        class Layer(eqx.Module):
            cell: Any = getattr(eqx.nn, f"{kind}Cell")(width, width, key=key)

            def __call__(self, x: Any) -> Any:
                zeros = jnp.zeros(width, x.dtype)

                def step(state: Any, x: Any) -> Any:
                    state = self.cell(x, state)
                    return state, state[0] if kind == "LSTM" else state

                return lax.scan(step, (zeros, zeros) if kind == "LSTM" else zeros, x)[1]

        return Layer()

    return Case(kind, f"T{length} N{n} {width}", ((n, length, width),), layer, stock, flax, equinox, half=half)
