"""The whole models in Equinox: of one example, channels first, with batch norm's state handed through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import nn
from models import CLASSES, CONVNEXT, GPT_TOKENS, IMAGES, MOBILE, STAGES, VOCABULARY

Keys = Iterator[Any]


def keys() -> Keys:
    key = jax.random.key(0)
    while True:
        key, drawn = jax.random.split(key)
        yield drawn


def apply(layers: Sequence[Any], x: Any, state: Any) -> tuple[Any, Any]:
    """Layers with state and those without, one after the other."""
    for layer in layers:
        if isinstance(layer, nn.StatefulLayer):
            x, state = layer(x, state)
        else:
            x = layer(x)
    return x, state


class Chain(nn.StatefulLayer):
    layers: list[Any]

    def __call__(self, x: Any, state: Any) -> Any:
        return apply(self.layers, x, state)


class Residual(nn.StatefulLayer):
    body: list[Any]
    shortcut: list[Any] = ()  # type: ignore[assignment]
    then: Callable[[Any], Any] = eqx.field(static=True, default=lambda x: x)

    def __call__(self, x: Any, state: Any) -> Any:
        y, state = apply(self.body, x, state)
        x, state = apply(self.shortcut, x, state)
        return self.then(x + y), state


def conv_norm(i: int, o: int, k: int, stride: int, key: Keys, groups: int = 1, then: Sequence[Any] = ()) -> list[Any]:
    conv = nn.Conv2d(i, o, k, stride, k // 2, groups=groups, use_bias=False, key=next(key))
    return [conv, nn.BatchNorm(o, "batch", momentum=0.9, mode="ema"), *then]


def mean(x: Any) -> Any:
    return x.mean((1, 2))


def resnet(blocks: Sequence[int], bottleneck: bool, key: Keys) -> Any:
    i, layers = 64, [*conv_norm(3, 64, 7, 2, key, then=[jax.nn.relu]), nn.MaxPool2d(3, 2, 1)]
    for count, (width, first) in zip(blocks, STAGES, strict=True):
        for n in range(count):
            stride, o = first if n == 0 else 1, width * 4 if bottleneck else width
            sizes = ((i, width, 1, 1), (width, width, 3, stride), (width, o, 1, 1))
            sizes = sizes if bottleneck else ((i, width, 3, stride), (width, o, 3, 1))
            convs = [conv_norm(*size, key, then=[jax.nn.relu] * (m + 1 < len(sizes))) for m, size in enumerate(sizes)]
            shortcut = [] if i == o and stride == 1 else conv_norm(i, o, 1, stride, key)
            layers.append(Residual([layer for conv in convs for layer in conv], shortcut, jax.nn.relu))
            i = o
    return Chain([*layers, mean, nn.Linear(i, CLASSES, key=next(key))])


class Squeeze(eqx.Module):
    first: Any
    second: Any

    def __call__(self, x: Any) -> Any:
        gate = self.second(jax.nn.relu(self.first(x.mean((1, 2), keepdims=True))))
        return x * jax.nn.hard_sigmoid(gate)


def mobilenet(key: Keys) -> Any:
    i, layers = 16, [*conv_norm(3, 16, 3, 2, key, then=[jax.nn.hard_swish])]
    for k, expanded, o, squeeze, hard, stride in MOBILE:
        act = jax.nn.hard_swish if hard else jax.nn.relu
        body = conv_norm(i, expanded, 1, 1, key, then=[act]) if expanded != i else []
        body += conv_norm(expanded, expanded, k, stride, key, expanded, then=[act])
        if squeeze:
            inner = max(8, (expanded // 4 + 4) // 8 * 8)
            body.append(Squeeze(nn.Conv2d(expanded, inner, 1, key=next(key)), nn.Conv2d(inner, expanded, 1, key=next(key))))
        body += conv_norm(expanded, o, 1, 1, key)
        layers += [Residual(body)] if i == o and stride == 1 else body
        i = o
    layers += [*conv_norm(i, 576, 1, 1, key, then=[jax.nn.hard_swish]), mean, nn.Linear(576, 1024, key=next(key))]
    return Chain([*layers, jax.nn.hard_swish, nn.Linear(1024, CLASSES, key=next(key))])


def gelu(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


class Rows(eqx.Module):
    """A layer of one row, over all rows; of a map, whose channels come first, over all its points."""

    layer: Any
    last: bool = eqx.field(static=True, default=True)

    def __call__(self, x: Any) -> Any:
        if self.last:
            return jax.vmap(self.layer)(x)
        return jax.vmap(jax.vmap(self.layer, 1, 1), 2, 2)(x)


class Scale(eqx.Module):
    scale: Any

    def __call__(self, x: Any) -> Any:
        return x * self.scale


def mlp(c: int, key: Keys) -> list[Any]:
    return [nn.Linear(c, 4 * c, key=next(key)), nn.Lambda(gelu), nn.Linear(4 * c, c, key=next(key))]


def convnext(key: Keys) -> Any:
    i, layers = 3, []
    for c, blocks in CONVNEXT:
        k = 4 if i == 3 else 2
        down = nn.Conv2d(i, c, k, k, key=next(key))
        layers += [down, Rows(nn.LayerNorm(c), last=False)] if i == 3 else [Rows(nn.LayerNorm(i), last=False), down]
        for _ in range(blocks):
            points = nn.Sequential([nn.LayerNorm(c), *mlp(c, key), nn.Lambda(Scale(jnp.full(c, 1e-2)))])
            layers.append(Residual([nn.Conv2d(c, c, 7, padding=3, groups=c, key=next(key)), Rows(points, last=False)]))
        i = c
    return Chain([*layers, mean, nn.LayerNorm(i), nn.Linear(i, CLASSES, key=next(key))])


class Attention(eqx.Module):
    attention: Any
    causal: bool = eqx.field(static=True)

    def __init__(self, width: int, causal: bool, key: Keys) -> None:
        biases = dict.fromkeys(("use_query_bias", "use_key_bias", "use_value_bias", "use_output_bias"), True)
        self.attention, self.causal = nn.MultiheadAttention(width // 64, width, **biases, key=next(key)), causal

    def __call__(self, x: Any) -> Any:
        return self.attention(x, x, x, mask=jnp.tri(len(x), dtype=bool) if self.causal else None)


def blocks(width: int, depth: int, causal: bool, key: Keys) -> list[Any]:
    layers = []
    for _ in range(depth):
        layers.append(Residual([Rows(nn.LayerNorm(width)), Attention(width, causal, key)]))
        layers.append(Residual([Rows(nn.LayerNorm(width)), *(Rows(layer) for layer in mlp(width, key))]))
    return layers


class Positions(eqx.Module):
    weight: Any

    def __call__(self, x: Any) -> Any:
        return x + self.weight


def vit(key: Keys, width: int = 384, depth: int = 12, patch: int = 16) -> Any:
    positions = Positions(jax.random.normal(next(key), ((IMAGES[-1] // patch) ** 2, width)))
    first = [nn.Conv2d(3, width, patch, patch, key=next(key)), lambda x: x.reshape(width, -1).T, positions]
    last = [Rows(nn.LayerNorm(width)), lambda x: x.mean(0), nn.Linear(width, CLASSES, key=next(key))]
    return Chain([*first, *blocks(width, depth, False, key), *last])


def gpt(key: Keys, width: int = 384, depth: int = 12, length: int = GPT_TOKENS[1]) -> Any:
    first = [Rows(nn.Embedding(VOCABULARY, width, key=next(key))), Positions(jax.random.normal(next(key), (length, width)))]
    last = [Rows(nn.LayerNorm(width)), Rows(nn.Linear(width, VOCABULARY, use_bias=False, key=next(key)))]
    return Chain([*first, *blocks(width, depth, True, key), *last])


class Recurrent(eqx.Module):
    cell: Any

    def __call__(self, x: Any) -> Any:
        def step(state: Any, x: Any) -> Any:
            state = self.cell(x, state)
            return state, state[0]

        zeros = jnp.zeros(self.cell.hidden_size)
        return jax.lax.scan(step, (zeros, zeros), x)[1]


def lstm(key: Keys, width: int = 256) -> Any:
    cells = [Recurrent(nn.LSTMCell(width, width, key=next(key))) for _ in range(2)]
    tokens, head = nn.Embedding(VOCABULARY, width, key=next(key)), nn.Linear(width, VOCABULARY, key=next(key))
    return Chain([Rows(tokens), *cells, Rows(head)])


MODELS: dict[str, Callable[[Keys], Any]] = {
    "ResNet-18": lambda key: resnet((2, 2, 2, 2), False, key),
    "ResNet-50": lambda key: resnet((3, 4, 6, 3), True, key),
    "MobileNetV3-small": mobilenet,
    "ConvNeXt-tiny": convnext,
    "ViT-small": vit,
    "GPT": gpt,
    "LSTM": lstm,
}
