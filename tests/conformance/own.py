"""Samples for what PyTorch's databases lack: names of functions and layers, and arguments for them."""

from __future__ import annotations

from typing import Any

import torch
from torch.testing import make_tensor


def _x(*shape: int, low: float = -3, high: float = 3, grad: bool = True) -> torch.Tensor:
    return make_tensor(shape, device="cpu", dtype=torch.float32, low=low, high=high, requires_grad=grad)


def _indices(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(high, shape)


class Given:
    """Arguments."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.args, self.kwargs = args, kwargs


def functions() -> dict[str, list[Given]]:
    """The arguments of functions that `op_db` lacks."""
    shapes: tuple[tuple[int, ...], ...] = ((), (5,), (3, 4), (2, 3, 4), (0, 3))
    elementwise = [Given(_x(*shape)) for shape in shapes]
    along = [Given(_x(*shape), dim=dim) for shape, dim in (((3, 4), 0), ((3, 4), 1), ((2, 3, 4), -1), ((2, 0), 1), ((5,), 0))]
    typed = [Given(_x(3, 4), dim=1, dtype=torch.float64), Given(_indices(5, 3, 4), dim=0, dtype=torch.float32)]
    images = _x(2, 6, 5, 4)
    pools = {}
    for n, shape in ((1, (9,)), (2, (9, 8)), (3, (6, 7, 5))):
        batch, single = _x(2, 3, *shape), _x(3, *shape)
        pools[f"max_pool{n}d_with_indices"] = [
            Given(batch, 2),
            Given(batch, 3, stride=2, padding=1),
            Given(single, 2, dilation=2, ceil_mode=True),
        ]
        pools[f"adaptive_max_pool{n}d_with_indices"] = [Given(batch, 3), Given(single, 4)]
        pools[f"lp_pool{n}d"] = [Given(batch, 2, 3), Given(batch.abs(), 3.0, 2, stride=1), Given(single, 4, 2, ceil_mode=True)]
        if n > 1:
            samples = torch.rand(2, 3, n)
            pools[f"fractional_max_pool{n}d_with_indices"] = [
                Given(batch, 2, output_size=(3,) * n, _random_samples=samples),
                Given(batch, 2, output_ratio=(0.5,) * n, _random_samples=samples),
                Given(batch, 2, output_size=3),
            ]
    return pools | {
        "affine_grid": [
            Given(_x(2, *theta), size, align_corners=align)
            for theta, size in (((2, 3), (2, 3, 4, 5)), ((3, 4), (2, 1, 3, 4, 2)), ((2, 3), (2, 1, 1, 1)))
            for align in (False, True)
        ],
        "celu_": elementwise,
        "conv_tbc": [Given(_x(7, 2, 3), _x(3, 3, 4), _x(4)), Given(_x(7, 2, 3), _x(2, 3, 4), _x(4), 1)],
        "dropout1d": [Given(_x(2, 3, 4), 0.3, training=training) for training in (False, True)] + [Given(_x(3, 4), 0.5)],
        "elu_": elementwise,
        "fold": [
            Given(_x(2, 12, 12), (4, 5), (2, 2)),
            Given(_x(12, 12), (4, 5), 2),
            Given(_x(2, 18, 9), (5, 6), 3, padding=1, stride=2),
            Given(_x(1, 8, 4), (6, 5), 2, dilation=(2, 1), stride=2),
        ],
        "gumbel_softmax": [Given(_x(20, 5)), Given(_x(20, 5), tau=0.5, dim=0), Given(_x(4, 3, 5), hard=True)],
        "hardtanh_": elementwise,
        "leaky_relu_": elementwise,
        "log_softmax": along + typed,
        "native_channel_shuffle": [Given(images.detach(), 2), Given(images.detach(), 3)],  # torch has no derivative of it
        "relu_": elementwise,
        "rrelu_": [*elementwise, Given(_x(30, 30), 0.1, 0.3, True)],
        "selu_": elementwise,
        "sigmoid": [*elementwise, Given(_indices(5, 3))],
        "softmax": along + typed,
        "tanh": [*elementwise, Given(_indices(5, 3))],
        "threshold_": [Given(_x(3, 4), 0.1, 20.0), Given(_x(5), -1.0, 0.0)],
        "upsample": [
            Given(images, scale_factor=2),
            Given(images, size=(7, 9), mode="bilinear"),
            Given(images, scale_factor=1.7, mode="bicubic", align_corners=True),
        ],
    }


def layers() -> dict[str, list[tuple[Given, Given]]]:
    """The arguments of constructors and of forward, of layers that `module_db` lacks."""
    images, samples = _x(2, 6, 4, 6), _x(8, 10)
    spaces = {1: (7,), 2: (6, 5), 3: (4, 5, 3)}
    found = {
        "AdaptiveLogSoftmaxWithLoss": [
            (Given(10, 20, [5, 12]), Given(samples, _indices(20, 8))),
            (Given(10, 20, [5, 10, 15], div_value=2.0, head_bias=True), Given(samples, _indices(20, 8))),
            (Given(10, 20, [5]), Given(_x(10), torch.tensor(11))),
        ],
        "AlphaDropout": [(Given(0.3), Given(_x(20, 20)))],
        "ChannelShuffle": [(Given(2), Given(images)), (Given(3), Given(images))],
        "CosineSimilarity": [(Given(), Given(_x(3, 4), _x(3, 4))), (Given(dim=-1, eps=1e-2), Given(_x(2, 3, 4), _x(3, 4)))],
        "CrossMapLRN2d": [(Given(3), Given(images)), (Given(4, alpha=0.1, beta=0.5, k=2), Given(images))],
        "Dropout": [(Given(), Given(_x(20, 20))), (Given(0.9), Given(_x(30)))],
        "Dropout1d": [(Given(0.4), Given(_x(5, 8, 3))), (Given(), Given(_x(8, 3)))],
        "Dropout2d": [(Given(0.4), Given(_x(5, 8, 3, 2)))],
        "Dropout3d": [(Given(0.4), Given(_x(5, 8, 3, 2, 2))), (Given(), Given(_x(8, 3, 2, 2)))],
        "EmbeddingBag": [
            (Given(9, 4, mode=mode, padding_idx=row), Given(_indices(9, 3, 5)))
            for mode in ("sum", "mean", "max")
            for row in (None, 2)
        ]
        + [
            (Given(9, 4, mode="sum"), Given(_indices(9, 12), torch.tensor([0, 4, 4, 9]), _x(12))),
            (Given(9, 4, include_last_offset=True), Given(_indices(9, 12), torch.tensor([0, 4, 4, 12]))),
        ],
        "FeatureAlphaDropout": [(Given(0.4), Given(_x(5, 8, 3, 2)))],
        "Flatten": [(Given(), Given(images)), (Given(0, 2), Given(images)), (Given(2), Given(images))],
        "Fold": [(Given((4, 5), 2), Given(_x(2, 12, 12))), (Given(6, 3, padding=1, stride=2), Given(_x(2, 18, 9)))],
        "Hardsigmoid": [(Given(), Given(_x(3, 4, low=-5, high=5)))],
        "Identity": [(Given(1, unused=2), Given(_x(3, 4)))],
        "LazyLinear": [(Given(5), Given(_x(3, 4))), (Given(5, bias=False), Given(_x(4)))],
        "NLLLoss2d": [(Given(), Given(_x(2, 3, 4, 5), _indices(3, 2, 4, 5)))],
        "PairwiseDistance": [(Given(), Given(_x(3, 4), _x(3, 4))), (Given(1.5, keepdim=True), Given(_x(3, 4), _x(4)))],
        "PixelShuffle": [(Given(2), Given(_x(2, 8, 3, 2))), (Given(3), Given(_x(9, 3, 2)))],
        "PixelUnshuffle": [(Given(2), Given(_x(2, 3, 4, 6))), (Given(3), Given(_x(2, 3, 6)))],
        "RReLU": [(Given(), Given(_x(30, 30))), (Given(0.2, 0.2), Given(_x(3, 4)))],
        "TripletMarginLoss": [
            (Given(), Given(_x(5, 4), _x(5, 4), _x(5, 4))),
            (Given(2.0, 1, swap=True, reduction="sum"), Given(_x(5, 4), _x(5, 4), _x(5, 4))),
            (Given(reduction="none"), Given(_x(4), _x(4), _x(4))),
        ],
        "TripletMarginWithDistanceLoss": [
            (Given(swap=swap, margin=0.5), Given(_x(5, 4), _x(5, 4), _x(5, 4))) for swap in (False, True)
        ],
        "Unflatten": [(Given(1, (2, 3)), Given(images)), (Given(-1, (2, -1)), Given(images))],
        "Unfold": [(Given(2), Given(images)), (Given((3, 2), dilation=(1, 2), padding=1, stride=2), Given(images))],
        "Upsample": [
            (Given(scale_factor=2), Given(images)),
            (Given(size=(5, 9), mode="bilinear"), Given(images)),
            (Given(scale_factor=(1.5, 2.5), mode="bicubic", align_corners=True), Given(images)),
            (Given(scale_factor=2, mode="linear"), Given(_x(2, 3, 5))),
            (Given(size=(3, 7, 5), mode="trilinear"), Given(_x(1, 2, 4, 3, 6))),
        ],
        "UpsamplingBilinear2d": [(Given(scale_factor=2), Given(images))],
        "UpsamplingNearest2d": [(Given(size=(8, 9)), Given(images))],
    }
    for n, space in spaces.items():
        batch = _x(4, 3, *space)
        found[f"LazyBatchNorm{n}d"] = [(Given(), Given(batch)), (Given(momentum=None, affine=False), Given(batch))]
        found[f"LazyInstanceNorm{n}d"] = [
            (Given(), Given(batch)),
            (Given(affine=True, track_running_stats=True), Given(batch)),
        ]
        pooled, indices = getattr(torch.nn.functional, f"max_pool{n}d")(batch.detach(), 2, return_indices=True)
        found[f"MaxUnpool{n}d"] = [
            (Given(2), Given(pooled.clone().requires_grad_(), indices, output_size=list(space))),
            (Given(2), Given(pooled[0].clone().requires_grad_(), indices[0], output_size=list(space))),
        ]
    return found
