"""The whole models in Flax NNX, channels last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from models import CLASSES, CONVNEXT, GPT_TOKENS, IMAGES, MOBILE, STAGES, VOCABULARY


def conv(i: int, o: int, k: int, stride: int, rngs: Any, groups: int = 1, bias: bool = False) -> Any:
    pads = [(k // 2, k // 2)] * 2
    return nnx.Conv(i, o, (k, k), stride, padding=pads, feature_group_count=groups, use_bias=bias, rngs=rngs)


def conv_norm(i: int, o: int, k: int, stride: int, rngs: Any, groups: int = 1, then: Sequence[Any] = ()) -> Any:
    norm = nnx.BatchNorm(o, momentum=0.9, epsilon=1e-5, rngs=rngs)
    return nnx.Sequential(conv(i, o, k, stride, rngs, groups), norm, *then)


def mean(x: Any) -> Any:
    return x.mean((1, 2))


class Residual(nnx.Module):
    def __init__(self, body: Any, shortcut: Any = None, then: Callable[[Any], Any] = lambda x: x) -> None:
        self.body, self.shortcut, self.then = body, shortcut, then

    def __call__(self, x: Any) -> Any:
        return self.then(self.body(x) + (x if self.shortcut is None else self.shortcut(x)))


def resnet(blocks: Sequence[int], bottleneck: bool, rngs: Any) -> Any:
    i, layers = 64, [conv_norm(3, 64, 7, 2, rngs, then=[nnx.relu])]
    layers.append(lambda x: nnx.max_pool(x, (3, 3), (2, 2), [(1, 1)] * 2))
    for count, (width, first) in zip(blocks, STAGES, strict=True):
        for n in range(count):
            stride, o = first if n == 0 else 1, width * 4 if bottleneck else width
            sizes = ((i, width, 1, 1), (width, width, 3, stride), (width, o, 1, 1))
            sizes = sizes if bottleneck else ((i, width, 3, stride), (width, o, 3, 1))
            body = [conv_norm(*size, rngs, then=[nnx.relu] * (m + 1 < len(sizes))) for m, size in enumerate(sizes)]
            shortcut = None if i == o and stride == 1 else conv_norm(i, o, 1, stride, rngs)
            layers.append(Residual(nnx.Sequential(*body), shortcut, nnx.relu))
            i = o
    return nnx.Sequential(*layers, mean, nnx.Linear(i, CLASSES, rngs=rngs))


class Squeeze(nnx.Module):
    def __init__(self, c: int, rngs: Any) -> None:
        inner = max(8, (c // 4 + 4) // 8 * 8)
        self.gate = nnx.Sequential(
            conv(c, inner, 1, 1, rngs, bias=True), nnx.relu, conv(inner, c, 1, 1, rngs, bias=True), nnx.hard_sigmoid
        )

    def __call__(self, x: Any) -> Any:
        return x * self.gate(x.mean((1, 2), keepdims=True))


def mobilenet(rngs: Any) -> Any:
    i, layers = 16, [conv_norm(3, 16, 3, 2, rngs, then=[nnx.hard_swish])]
    for k, expanded, o, squeeze, hard, stride in MOBILE:
        act = nnx.hard_swish if hard else nnx.relu
        expand = [conv_norm(i, expanded, 1, 1, rngs, then=[act])] if expanded != i else []
        depthwise = conv_norm(expanded, expanded, k, stride, rngs, expanded, then=[act])
        squeezed = [Squeeze(expanded, rngs)] if squeeze else []
        body = nnx.Sequential(*expand, depthwise, *squeezed, conv_norm(expanded, o, 1, 1, rngs))
        layers.append(Residual(body) if i == o and stride == 1 else body)
        i = o
    layers += [conv_norm(i, 576, 1, 1, rngs, then=[nnx.hard_swish]), mean, nnx.Linear(576, 1024, rngs=rngs)]
    return nnx.Sequential(*layers, nnx.hard_swish, nnx.Linear(1024, CLASSES, rngs=rngs))


def gelu(x: Any) -> Any:
    return nnx.gelu(x, approximate=False)


def norm(c: int, rngs: Any, epsilon: float = 1e-6) -> Any:
    return nnx.LayerNorm(c, epsilon=epsilon, rngs=rngs)


def mlp(c: int, rngs: Any) -> list[Any]:
    return [nnx.Linear(c, 4 * c, rngs=rngs), gelu, nnx.Linear(4 * c, c, rngs=rngs)]


class Scale(nnx.Module):
    def __init__(self, c: int) -> None:
        self.scale = nnx.Param(jnp.full(c, 1e-2))

    def __call__(self, x: Any) -> Any:
        return x * self.scale


def convnext(rngs: Any) -> Any:
    i, layers = 3, []
    for c, blocks in CONVNEXT:
        k = 4 if i == 3 else 2
        down = nnx.Conv(i, c, (k, k), k, padding="VALID", rngs=rngs)
        layers += [down, norm(c, rngs)] if i == 3 else [norm(i, rngs), down]
        for _ in range(blocks):
            depthwise = conv(c, c, 7, 1, rngs, groups=c, bias=True)
            layers.append(Residual(nnx.Sequential(depthwise, norm(c, rngs), *mlp(c, rngs), Scale(c))))
        i = c
    return nnx.Sequential(*layers, mean, norm(i, rngs), nnx.Linear(i, CLASSES, rngs=rngs))


class Attention(nnx.Module):
    def __init__(self, width: int, causal: bool, rngs: Any) -> None:
        self.attention, self.causal = nnx.MultiHeadAttention(width // 64, width, decode=False, rngs=rngs), causal

    def __call__(self, x: Any) -> Any:
        return self.attention(x, is_causal=self.causal)


def blocks(width: int, depth: int, causal: bool, rngs: Any) -> Any:
    layers = []
    for _ in range(depth):
        layers.append(Residual(nnx.Sequential(norm(width, rngs, 1e-5), Attention(width, causal, rngs))))
        layers.append(Residual(nnx.Sequential(norm(width, rngs, 1e-5), *mlp(width, rngs))))
    return nnx.Sequential(*layers)


class ViT(nnx.Module):
    def __init__(self, rngs: Any, width: int = 384, depth: int = 12, patch: int = 16) -> None:
        self.patches = nnx.Conv(3, width, (patch, patch), patch, padding="VALID", rngs=rngs)
        self.positions = nnx.Param(jax.random.normal(rngs.params(), ((IMAGES[-1] // patch) ** 2, width)))
        self.blocks = blocks(width, depth, False, rngs)
        self.norm, self.head = norm(width, rngs, 1e-5), nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1]) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


class GPT(nnx.Module):
    def __init__(self, rngs: Any, width: int = 384, depth: int = 12, length: int = GPT_TOKENS[1]) -> None:
        self.tokens = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.positions = nnx.Param(jax.random.normal(rngs.params(), (length, width)))
        self.blocks = blocks(width, depth, True, rngs)
        self.norm, self.head = norm(width, rngs, 1e-5), nnx.Linear(width, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.head(self.norm(self.blocks(self.tokens(x) + self.positions)))


def lstm(rngs: Any, width: int = 256) -> Any:
    cells = [nnx.RNN(nnx.OptimizedLSTMCell(width, width, rngs=rngs), rngs=rngs) for _ in range(2)]
    return nnx.Sequential(nnx.Embed(VOCABULARY, width, rngs=rngs), *cells, nnx.Linear(width, VOCABULARY, rngs=rngs))


MODELS: dict[str, Callable[[Any], Any]] = {
    "ResNet-18": lambda rngs: resnet((2, 2, 2, 2), False, rngs),
    "ResNet-50": lambda rngs: resnet((3, 4, 6, 3), True, rngs),
    "MobileNetV3-small": mobilenet,
    "ConvNeXt-tiny": convnext,
    "ViT-small": ViT,
    "GPT": GPT,
    "LSTM": lstm,
}
