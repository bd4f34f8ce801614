"""Fusion of layers with batch normalization, with torch's as the oracle; and memory formats."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_refused, normal, torch

import fnn.nn as nn


def trained(lib, norm, **options):
    """A normalization in evaluation mode that has statistics."""
    bn = norm(4 if norm is not lib.BatchNorm3d else 2, **options)
    rng = np.random.default_rng(0)
    make = torch.tensor if lib is torch.nn else jnp.asarray
    for name, tensor in bn.state_dict().items():
        if tensor.shape:
            getattr(bn, name).data = make(rng.uniform(0.5, 2.0, tensor.shape).astype(np.float32))
    return bn.eval()


CASES = [
    (lambda lib: lib.Conv2d(3, 4, 2), lambda lib: lib.BatchNorm2d, {}, (2, 3, 3, 3)),
    (lambda lib: lib.Conv1d(4, 4, 2, groups=2, bias=False), lambda lib: lib.BatchNorm1d, {"affine": False}, (2, 4, 3)),
    (lambda lib: lib.ConvTranspose2d(3, 4, 2), lambda lib: lib.BatchNorm2d, {"eps": 0.1}, (2, 3, 3, 3)),
    (lambda lib: lib.Linear(3, 4, bias=False), lambda lib: lib.BatchNorm1d, {}, (2, 3)),
    (lambda lib: lib.Linear(3, 4).requires_grad_(False), lambda lib: lib.BatchNorm1d, {}, (2, 3)),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_fused_layer_as_in_torch(number):
    build, norm, options, shape = CASES[number]
    results = []
    layers = build(nn).eval(), build(torch.nn).eval()
    layers[0].load_state_dict(layers[1].state_dict())
    for lib, layer in zip((nn, torch.nn), layers, strict=True):
        bn = trained(lib, norm(lib), **options)
        if isinstance(layer, lib.Linear):
            results.append((lib.utils.fuse_linear_bn_eval(layer, bn), bn))
        else:
            results.append((lib.utils.fuse_conv_bn_eval(layer, bn, "Transpose" in type(layer).__name__), bn))
        assert results[-1][0] is not layer
    (ours, bn), (theirs, _) = results
    assert repr(ours) == repr(theirs)
    for name, value in theirs.named_parameters():
        np.testing.assert_allclose(getattr(ours, name), value.detach(), rtol=1e-5, atol=1e-6)
        assert getattr(ours, name).requires_grad == value.requires_grad
    x = normal(*shape)
    np.testing.assert_allclose(ours(x), bn(layers[0](x)), rtol=1e-4, atol=1e-5)


def test_weights_keep_their_dtypes():
    weight, statistics = normal(4, 3, dtype=np.float16), [normal(4) ** 2 for _ in range(4)]
    for lib, make in ((nn, jnp.asarray), (torch.nn, torch.tensor)):
        w, (mean, variance, scale, shift) = make(weight), map(make, statistics)
        fused = lib.utils.fuse_linear_bn_weights(w, None, mean, variance, 1e-5, scale, shift)
        assert [str(p.dtype).removeprefix("torch.") for p in fused] == ["float16", "float16"]
        fused = lib.utils.fuse_conv_bn_weights(w[..., None], mean, mean, variance, 1e-5, None, None)
        assert [str(p.dtype).removeprefix("torch.") for p in fused] == ["float16", "float32"]
        assert not fused[0].requires_grad


@pytest.mark.parametrize(
    "call",
    [
        lambda lib, t: lib.utils.fuse_conv_bn_eval(lib.Conv1d(2, 2, 1), lib.BatchNorm1d(2).eval()),
        lambda lib, t: lib.utils.fuse_conv_bn_eval(lib.Conv1d(2, 2, 1).eval(), lib.BatchNorm1d(2)),
        lambda lib, t: lib.utils.fuse_linear_bn_eval(
            lib.Linear(2, 2).eval(), lib.BatchNorm1d(2, track_running_stats=False).eval()
        ),
        lambda lib, t: lib.utils.fuse_linear_bn_eval(lib.Linear(2, 3).eval(), lib.BatchNorm1d(2).eval()),
        lambda lib, t: lib.utils.convert_conv2d_weight_memory_format(lib.Conv2d(1, 1, 1), "sideways"),
        lambda lib, t: lib.utils.convert_conv3d_weight_memory_format(lib.Conv3d(1, 1, 1), 3),
    ],
)
def test_mistakes_are_torchs_errors(call):
    assert_refused(call)


@pytest.mark.parametrize("memory_format", [torch.channels_last, "channels_last", torch.contiguous_format, None])
def test_memory_formats_change_nothing(memory_format):
    layer = nn.Conv2d(1, 1, 1)
    assert nn.utils.convert_conv2d_weight_memory_format(layer, memory_format) is layer
    assert nn.utils.convert_conv3d_weight_memory_format(layer, memory_format) is layer
