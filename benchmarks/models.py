"""The whole models, written once: every function takes torch.nn or fnn.nn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

CLASSES, VOCABULARY = 1000, 4096
MOBILE = (  # MobileNetV3-small, Howard et al., 2019, table 2: kernel, expanded, out, squeeze, hard swish, stride
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)
CONVNEXT = ((96, 3), (192, 3), (384, 9), (768, 3))  # ConvNeXt-tiny, Liu et al., 2022: width and blocks of each stage
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # of ResNets: width, stride


def _conv_norm(nn: Any, i: int, o: int, k: int, stride: int = 1, groups: int = 1, then: Sequence[Any] = ()) -> Any:
    return nn.Sequential(nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), *then)


def resnet(nn: Any, blocks: Sequence[int], bottleneck: bool, scale: int = 1) -> Any:
    """ResNet of He et al., 2015, its widths divided by `scale`."""

    class Block(nn.Module):
        def __init__(self, i: int, width: int, stride: int) -> None:
            super().__init__()
            o = width * 4 if bottleneck else width
            sizes = ((i, width, 1, 1), (width, width, 3, stride), (width, o, 1, 1))
            sizes = sizes if bottleneck else ((i, width, 3, stride), (width, o, 3, 1))
            convs = [_conv_norm(nn, *size, then=[nn.ReLU()] * (n + 1 < len(sizes))) for n, size in enumerate(sizes)]
            self.body = nn.Sequential(*convs)
            self.shortcut = nn.Identity() if i == o and stride == 1 else _conv_norm(nn, i, o, 1, stride)
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.shortcut(x))

    i = 64 // scale
    layers = [_conv_norm(nn, 3, i, 7, 2, then=[nn.ReLU()]), nn.MaxPool2d(3, 2, 1)]
    for count, (width, stride) in zip(blocks, STAGES, strict=True):
        for n in range(count):
            layers.append(Block(i, width // scale, stride if n == 0 else 1))
            i = width // scale * (4 if bottleneck else 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(i, CLASSES))


def mobilenet(nn: Any) -> Any:
    class Squeeze(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            inner = max(8, (c // 4 + 4) // 8 * 8)
            self.gate = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, inner, 1), nn.ReLU(), nn.Conv2d(inner, c, 1), nn.Hardsigmoid()
            )

        def forward(self, x: Any) -> Any:
            return x * self.gate(x)

    class Block(nn.Module):
        def __init__(self, i: int, k: int, expanded: int, o: int, squeeze: bool, hard: bool, stride: int) -> None:
            super().__init__()
            act = nn.Hardswish if hard else nn.ReLU
            expand = [_conv_norm(nn, i, expanded, 1, then=[act()])] if expanded != i else []
            depthwise = _conv_norm(nn, expanded, expanded, k, stride, expanded, then=[act()])
            self.body = nn.Sequential(*expand, depthwise, *[Squeeze(expanded)] * squeeze, _conv_norm(nn, expanded, o, 1))
            self.residual = i == o and stride == 1

        def forward(self, x: Any) -> Any:
            return x + self.body(x) if self.residual else self.body(x)

    i, layers = 16, [_conv_norm(nn, 3, 16, 3, 2, then=[nn.Hardswish()])]
    for k, expanded, o, squeeze, hard, stride in MOBILE:
        layers.append(Block(i, k, expanded, o, squeeze, hard, stride))
        i = o
    layers.append(_conv_norm(nn, i, 576, 1, then=[nn.Hardswish()]))
    head = [nn.Linear(576, 1024), nn.Hardswish(), nn.Linear(1024, CLASSES)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


def convnext(nn: Any) -> Any:
    class Norm(nn.LayerNorm):
        """Over the channels of a map."""

        def forward(self, x: Any) -> Any:
            return super().forward(x.swapaxes(1, 2).swapaxes(2, 3)).swapaxes(2, 3).swapaxes(1, 2)

    class Block(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(c, c, 7, padding=3, groups=c)
            self.body = nn.Sequential(nn.LayerNorm(c, eps=1e-6), nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))
            self.scale = nn.Parameter(nn.LayerNorm(c).weight.data * 0.01)

        def forward(self, x: Any) -> Any:
            y = self.body(self.depthwise(x).swapaxes(1, 2).swapaxes(2, 3)) * self.scale
            return x + y.swapaxes(2, 3).swapaxes(1, 2)

    i, layers = 3, []
    for c, blocks in CONVNEXT:
        down = [nn.Conv2d(3, c, 4, 4), Norm(c, eps=1e-6)] if i == 3 else [Norm(i, eps=1e-6), nn.Conv2d(i, c, 2, 2)]
        layers += [*down, *[Block(c) for _ in range(blocks)]]
        i = c
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(i, eps=1e-6), nn.Linear(i, CLASSES))


def _transformer_block(nn: Any, width: int, heads: int, causal: bool) -> Any:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

        def forward(self, x: Any) -> Any:
            n, length, _ = x.shape
            q, k, v = (f(x).reshape(n, length, heads, -1).swapaxes(1, 2) for f in (self.q, self.k, self.v))
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            return self.out(y.swapaxes(1, 2).reshape(n, length, width))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.Sequential(nn.LayerNorm(width), Attention())
            self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Any) -> Any:
            x = x + self.attention(x)
            return x + self.body(x)

    return Block()


def vit(nn: Any, width: int = 384, depth: int = 12, patch: int = 16, size: int = 112) -> Any:
    """ViT-small; the mean over patches goes to the head."""

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, width, patch, patch)
            self.positions = nn.Embedding((size // patch) ** 2, width)
            self.blocks = nn.Sequential(*[_transformer_block(nn, width, width // 64, causal=False) for _ in range(depth)])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

        def forward(self, x: Any) -> Any:
            x = self.patches(x)
            x = x.reshape(*x.shape[:2], -1).swapaxes(1, 2) + self.positions.weight
            return self.head(self.norm(self.blocks(x)).mean(1))

    return ViT()


def gpt(nn: Any, width: int = 384, depth: int = 12, length: int = 128) -> Any:
    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(length, width)
            self.blocks = nn.Sequential(*[_transformer_block(nn, width, width // 64, causal=True) for _ in range(depth)])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)

        def forward(self, x: Any) -> Any:
            return self.head(self.norm(self.blocks(self.tokens(x) + self.positions.weight)))

    return GPT()


def lstm(nn: Any, width: int = 256) -> Any:
    class LSTM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(VOCABULARY, width)
            self.rnn, self.head = nn.LSTM(width, width, 2, batch_first=True), nn.Linear(width, VOCABULARY)

        def forward(self, x: Any) -> Any:
            return self.head(self.rnn(self.tokens(x))[0])

    return LSTM()


def small_layers(nn: Any, depth: int = 80) -> Any:
    """For the cost of dispatch alone."""
    return nn.Sequential(*[layer for _ in range(depth // 2) for layer in (nn.Linear(4, 4), nn.Tanh())])


MODELS: dict[str, Callable[[Any], Any]] = {
    "ResNet-18": lambda nn: resnet(nn, (2, 2, 2, 2), bottleneck=False),
    "ResNet-50": lambda nn: resnet(nn, (3, 4, 6, 3), bottleneck=True),
    "MobileNetV3-small": mobilenet,
    "ConvNeXt-tiny": convnext,
    "ViT-small": vit,
    "GPT": gpt,
    "LSTM": lstm,
}
IMAGES, GPT_TOKENS, LSTM_TOKENS = (8, 3, 112, 112), (4, 128), (16, 64)


def batch(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A training batch: images or tokens, and what shall be predicted."""
    draw = np.random.default_rng(0)
    if name in ("GPT", "LSTM"):
        shape = GPT_TOKENS if name == "GPT" else LSTM_TOKENS
        return tuple(draw.integers(VOCABULARY, size=shape).astype(np.int32) for _ in range(2))  # type: ignore[return-value]
    return draw.standard_normal(IMAGES, dtype=np.float32), draw.integers(CLASSES, size=IMAGES[:1]).astype(np.int32)
