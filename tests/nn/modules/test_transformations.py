"""Every family works under every JAX transformation: forward and reverse mode, both composed, vmap, jit, export."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
import fnn.functional as F
import fnn.nn as nn

PLATFORMS = ["cpu", "cuda", "tpu"]
CLASSES = jnp.array([1, 0, 3, 2, 1])

# A layer or a function, and the shape of its input.
CASES = {
    "linear": (lambda: nn.Linear(4, 3), (5, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 2, 3, stride=2, padding=1, groups=2), (2, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 3, (3, 2), dilation=(2, 1), padding="same", padding_mode="circular"), (1, 2, 5, 4)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 2)),
    "batchnorm": (lambda: nn.BatchNorm1d(3), (5, 3)),
    "batchnorm in evaluation": (lambda: nn.BatchNorm2d(3).eval(), (2, 3, 2, 2)),
    "layernorm": (lambda: nn.LayerNorm(4), (3, 4)),
    "embedding": (lambda: Lookup(), (3,)),
    "relu": (lambda: nn.ReLU(), (7,)),
    "gelu": (lambda: nn.GELU(), (7,)),
    "gelu tanh": (lambda: nn.GELU("tanh"), (7,)),
    "log_softmax": (lambda: lambda x: F.log_softmax(x, 1), (3, 4)),
    "maxpool": (lambda: nn.MaxPool2d(3, 2, 1), (1, 2, 5, 5)),
    "maxpool dilated": (lambda: nn.MaxPool1d(2, 1, 1, 2, ceil_mode=True), (2, 7)),
    "maxpool with indices": (lambda: lambda x: F.max_pool3d(x, 2, return_indices=True)[0], (1, 4, 4, 2)),
    "adaptive_avg_pool": (lambda: nn.AdaptiveAvgPool2d((3, 2)), (1, 2, 5, 4)),
    "dropout": (lambda: nn.Dropout(0.5), (20,)),
    "pad": (lambda: lambda x: F.pad(x, (2, -1), "reflect"), (2, 5)),
    "flatten": (lambda: nn.Flatten(), (2, 3, 2)),
    "mse_loss": (lambda: lambda x: nn.MSELoss()(x, jnp.arange(5.0, dtype=x.dtype)), (5,)),
    "cross_entropy": (lambda: lambda x: nn.CrossEntropyLoss(label_smoothing=0.1)(x, CLASSES), (5, 4)),
    "cross_entropy of probabilities": (lambda: lambda x: F.cross_entropy(x, jax.nn.softmax(x[::-1]) ** 2), (5, 4)),
    "lstm": (lambda: Sequence(nn.LSTM(3, 2, bidirectional=True)), (4, 2, 3)),
    "attention": (lambda: Sequence(nn.MultiheadAttention(4, 2), 3), (3, 2, 4)),
}


class Lookup(nn.Module):
    """An embedding whose input is floating, so that all cases look alike."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(6, 3)

    def forward(self, x):
        return self.table(jnp.array([[1, 2], [1, 5], [0, 0]])) * x


class Sequence(nn.Module):
    """The first output of a layer that takes a sequence, a number of times over."""

    def __init__(self, layer, times=1):
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x):
        return self.layer(*[x] * self.times)[0]


@pytest.fixture(params=CASES, scope="module")
def case(request):
    """A pure function of arrays, and arrays for it: the parameters, and the input."""
    make, shape = CASES[request.param]
    fnn.manual_seed(1)
    layer = make()
    x = np.random.default_rng(2).standard_normal(shape, dtype=np.float32)
    if not isinstance(layer, nn.Module):
        return layer, (x,)
    init, apply = fnn.pure(layer)
    params, state = init(0)
    leaves, tree = jax.tree.flatten(jax.tree.map(np.asarray, params))

    def function(*operands):
        params = jax.tree.unflatten(tree, operands[:-1])
        dtypes = {jnp.dtype(jnp.float32): operands[-1].dtype}
        same = jax.tree.map(lambda value: value.astype(dtypes.get(value.dtype, value.dtype)), state)
        return apply(params, operands[-1], state=same, rng=3, training=True)[0]

    return function, (*leaves, x)


def scalar(function):
    """A scalar function with a second derivative, whatever the function is."""
    return lambda *operands: jnp.sin(function(*operands) + 0.3).sum()


def gradient(function, operands):
    return jax.grad(scalar(function), argnums=tuple(range(len(operands))))


def like(operands, seed):
    """Normally distributed arrays of the same shapes and dtypes."""
    random = np.random.default_rng(seed)
    return tuple(np.asarray(random.standard_normal(x.shape)).astype(x.dtype) for x in operands)


def dot(one, other):
    return sum(jnp.vdot(a, b) for a, b in zip(one, other, strict=True))


def assert_same(ours, expected, tolerance=1e-5):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_derivatives_of_first_and_second_order_are_right_in_both_modes(case):
    function, operands = case

    @jax.jit
    def derivatives(operands, tangents, cotangent):
        _, forward = jax.jvp(function, operands, tangents)
        _, pull = jax.vjp(function, *operands)
        gradients = gradient(function, operands)
        _, forward_over_reverse = jax.jvp(gradients, operands, tangents)
        slope = jax.grad(lambda operands: dot(gradients(*operands), tangents))
        return forward, pull(cotangent), forward_over_reverse, slope(operands)

    @jax.jit
    def differences(operands, tangents, step=1e-6):
        def along(function):
            ends = [function(*(x + side * v for x, v in zip(operands, tangents, strict=True))) for side in (step, -step)]
            return jax.tree.map(lambda after, before: (after - before) / (2 * step), *ends)

        return along(function), along(gradient(function, operands))

    with jax.enable_x64(True):
        operands = tuple(x.astype(np.float64) for x in operands)
        tangents = like(operands, 4)
        change, change_of_gradient = differences(operands, tangents)
        (cotangent,) = like((change,), 5)
        forward, reverse, forward_over_reverse, reverse_over_reverse = derivatives(operands, tangents, cotangent)
        assert_same(forward, change, 1e-6)
        assert_same(dot(reverse, tangents), jnp.vdot(forward, cotangent), 1e-9)
        assert_same(forward_over_reverse, change_of_gradient, 1e-6)
        assert_same(reverse_over_reverse, forward_over_reverse, 1e-9)
        assert any(jnp.abs(x).max() > 0 for x in forward_over_reverse)


def test_vmap_of_the_function_and_of_its_gradient_is_a_loop(case):
    function, operands = case
    stacked = tuple(np.stack([x, *like([x] * 2, 7)]) for x in operands)

    @jax.jit
    def both(*stacked):
        results = []
        for f in (function, gradient(function, operands)):
            parameters = [x[0] for x in stacked[:-1]]
            results.append((jax.vmap(f)(*stacked), [f(*(x[i] for x in stacked)) for i in range(3)]))
            over_inputs = jax.vmap(lambda x, f=f, parameters=parameters: f(*parameters, x))
            results.append((over_inputs(stacked[-1]), [f(*parameters, x) for x in stacked[-1]]))
        return results

    for mapped, looped in both(*stacked):
        assert_same(mapped, jax.tree.map(lambda *outs: np.stack(outs), *looped), 1e-4)


def test_jit_and_export_for_every_platform_keep_the_values(case):
    function, operands = case
    expected = function(*operands)
    assert_same(jax.jit(function)(*operands), expected)
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*operands)
    assert_same(exported.call(*operands), expected)
    assert list(exported.platforms) == PLATFORMS


def test_the_gradient_exports_for_every_platform(case):
    function, operands = case
    exported = jax.export.export(jax.jit(gradient(function, operands)), platforms=PLATFORMS)(*operands)
    assert list(exported.platforms) == PLATFORMS
    assert [out.shape for out in exported.out_avals] == [x.shape for x in operands]
