"""autocast, policies and the scaling of losses, as torch has them on CUDA.

The dtypes are those that torch's own dispatcher gives for CUDA tensors that hold no values, which needs no GPU.
"""

import copy
import functools
import pickle
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import assert_agree, assert_close, integers, normal, tensor, torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fnn
import fnn.functional as F
import fnn.nn as nn
from fnn import precision

X, W, B = normal(4, 6), normal(5, 6), normal(5)
IMAGE, ROWS = normal(2, 3, 8, 8), normal(4, 6)
CLASSES, SIGNS = integers(6, 4), np.sign(normal(4))
BFLOAT16 = torch.bfloat16

# Names, operands and options. A float32 operand is tried in several dtypes.
CALLS = {
    "linear": ((X, W, B), {}),
    "bilinear": ((X, X, normal(5, 6, 6), B), {}),
    "conv1d": ((normal(2, 3, 8), normal(4, 3, 2), normal(4)), {}),
    "conv2d": ((IMAGE, normal(4, 3, 2, 2)), {}),
    "conv3d": ((normal(2, 3, 4, 4, 4), normal(4, 3, 2, 2, 2)), {}),
    "conv_transpose1d": ((normal(2, 3, 8), normal(3, 4, 2)), {}),
    "conv_transpose2d": ((IMAGE, normal(3, 4, 2, 2)), {}),
    "conv_transpose3d": ((normal(2, 3, 4, 4, 4), normal(3, 4, 2, 2, 2)), {}),
    "conv_tbc": ((normal(5, 2, 3), normal(3, 3, 4), normal(4)), {}),
    "prelu": ((X, normal(1)), {}),
    "scaled_dot_product_attention": ((normal(2, 4, 6), normal(2, 4, 6), normal(2, 4, 6), normal(4, 4)), {}),
    "softmax": ((X,), {"dim": -1}),
    "softmin": ((X,), {"dim": -1}),
    "log_softmax": ((X,), {"dim": -1}),
    "gumbel_softmax": ((X,), {}),
    "softplus": ((X,), {}),
    "layer_norm": ((X, (6,), normal(6), normal(6)), {}),
    "rms_norm": ((X, (6,), normal(6)), {}),
    "group_norm": ((IMAGE, 3, normal(3), normal(3)), {}),
    "local_response_norm": ((IMAGE, 2), {}),
    "normalize": ((X,), {}),
    "cosine_similarity": ((X, ROWS), {}),
    "pairwise_distance": ((X, ROWS), {}),
    "pdist": ((X,), {}),
    "lp_pool1d": ((normal(2, 3, 8), 2, 2), {}),
    "lp_pool2d": ((IMAGE, 2, 2), {}),
    "interpolate": ((IMAGE,), {"scale_factor": 2.0}),
    "cross_entropy": ((X, CLASSES), {"label_smoothing": 0.1}),
    "nll_loss": ((X, CLASSES), {}),
    "l1_loss": ((X, ROWS), {}),
    "mse_loss": ((X, ROWS), {"reduction": "none"}),
    "smooth_l1_loss": ((X, ROWS), {}),
    "huber_loss": ((X, ROWS), {}),
    "binary_cross_entropy": ((normal(4) ** 2 / 99, normal(4) ** 2 / 99), {}),
    "binary_cross_entropy_with_logits": ((X, ROWS), {}),
    "poisson_nll_loss": ((X, ROWS), {}),
    "kl_div": ((X, ROWS), {"reduction": "sum"}),
    "hinge_embedding_loss": ((X, ROWS), {}),
    "margin_ranking_loss": ((X, ROWS, ROWS), {}),
    "soft_margin_loss": ((X, ROWS), {}),
    "multilabel_soft_margin_loss": ((X, ROWS), {}),
    "multi_margin_loss": ((X, CLASSES), {}),
    "multilabel_margin_loss": ((X, integers(6, 4, 6)), {}),
    "cosine_embedding_loss": ((X, ROWS, SIGNS), {}),
    "triplet_margin_loss": ((X, ROWS, ROWS), {}),
    "triplet_margin_with_distance_loss": ((X, ROWS, ROWS), {}),
    "linear_cross_entropy": ((X, W, integers(5, 4)), {}),
    "grid_sample": ((normal(2, 3, 2, 4, 4), normal(2, 2, 2, 2, 3)), {"align_corners": False}),
    "embedding": ((CLASSES, normal(6, 3)), {}),
    "batch_norm": ((IMAGE, normal(3), normal(3) ** 2, normal(3), normal(3)), {}),
    "relu": ((X,), {}),
    "gelu": ((X,), {}),
    "silu": ((X,), {}),
    "sigmoid": ((X,), {}),
    "logsigmoid": ((X,), {}),
    "glu": ((X,), {}),
    "dropout": ((X,), {}),
    "max_pool2d": ((IMAGE, 2), {}),
    "avg_pool2d": ((IMAGE, 2), {}),
    "pixel_shuffle": ((normal(2, 4, 3, 3), 2), {}),
}


def floats(operands, dtypes):
    """The operands, those of floating point in dtypes, which repeat."""
    place = iter(range(len(operands)))
    given = []
    for x in operands:
        if isinstance(x, np.ndarray) and x.dtype == np.float32:
            x = x.astype(dtypes[next(place) % len(dtypes)])
        given.append(x)
    return given


def outcome_in_torch(name, operands, options):
    with FakeTensorMode(allow_non_fake_inputs=True):
        given = [
            torch.empty(x.shape, dtype=getattr(torch, x.dtype.name), device="cuda") if isinstance(x, np.ndarray) else x
            for x in operands
        ]
        torch.set_autocast_enabled("cuda", True)  # torch.autocast disables itself where there is no GPU
        torch.set_autocast_dtype("cuda", BFLOAT16)
        try:
            return str(getattr(torch.nn.functional, name)(*given, **options).dtype).removeprefix("torch.")
        except Exception as error:
            return type(error).__name__
        finally:
            torch.set_autocast_enabled("cuda", False)


def outcome_in_fnn(name, operands, options):
    given = [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in operands]
    arrays = {i: x for i, x in enumerate(given) if isinstance(x, jax.Array)}

    def call(arrays):
        with fnn.rng(0):
            return getattr(F, name)(*(arrays.get(i, x) for i, x in enumerate(given)), **options)

    try:
        with fnn.autocast(dtype=jnp.bfloat16):
            return jax.eval_shape(call, arrays).dtype.name
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize("name", CALLS)
def test_the_dtypes_are_those_of_cuda(name):
    operands, options = CALLS[name]
    mixtures = [(np.float32,), (jnp.bfloat16, np.float32)]
    if name in ("embedding", "batch_norm"):  # torch takes mixtures that fnn refuses, with and without autocast
        mixtures[1] = (jnp.bfloat16,)
    for dtypes in mixtures:
        given = floats(operands, dtypes)
        assert outcome_in_fnn(name, given, options) == outcome_in_torch(name, given, options), dtypes


@pytest.mark.parametrize(
    "name", ["linear", "conv2d", "conv_transpose2d", "scaled_dot_product_attention", "mse_loss", "cross_entropy"]
)
def test_values_and_gradients_are_those_of_the_cpu_where_its_lists_agree(name):
    operands, options = CALLS[name]
    dtype = "float16" if name == "linear" else "bfloat16"

    def theirs(*operands):
        with torch.autocast("cpu", dtype=getattr(torch, dtype)):
            return getattr(torch.nn.functional, name)(*operands, **options)

    def ours(*operands):
        with fnn.autocast("cpu", dtype=dtype):
            return getattr(F, name)(*operands, **options)

    assert_agree(ours, theirs, *operands, tolerance=3e-2)


@pytest.mark.parametrize("kind", ["LSTM", "RNN", "RNNCell", "MultiheadAttention", "TransformerEncoderLayer"])
def test_layers(kind):
    arguments = {"MultiheadAttention": (6, 2), "TransformerEncoderLayer": (6, 2, 8, 0.0)}.get(kind, (6, 5))
    theirs, ours = getattr(torch.nn, kind)(*arguments), getattr(nn, kind)(*arguments)
    ours.load_state_dict(theirs.state_dict())
    x = normal(3, 2, 6) if kind != "RNNCell" else X
    inputs = 3 if kind == "MultiheadAttention" else 1
    with torch.autocast("cpu"):
        expected = theirs(*[tensor(x)] * inputs)
    with fnn.autocast():
        out = fnn.jit(lambda x: ours(*[x] * inputs))(jnp.asarray(x))
    if kind == "MultiheadAttention":  # whose softmax is of float32 on CUDA, and of bfloat16 on the CPU
        assert out[1].dtype == np.float32
        out, expected = out[0], expected[0]
    for mine, other in zip(jax.tree.leaves(out), torch.utils._pytree.tree_leaves(expected), strict=True):
        assert_close(mine, other, 3e-2)


def test_the_default_dtype_is_that_of_the_device():
    for device, dtype in (
        (None, "bfloat16"),
        ("cpu", "bfloat16"),
        ("tpu", "bfloat16"),
        ("gpu", "bfloat16"),
        ("cuda", "float16"),
    ):
        with fnn.autocast(device):
            assert F.linear(X, W).dtype == dtype
            assert precision.get_autocast_dtype() == dtype
    assert precision.get_autocast_dtype("cuda") == jnp.float16


@pytest.mark.parametrize("arguments", [{"device_type": BFLOAT16}, {"device_type": "abacus"}])
def test_what_torch_refuses(arguments):
    with pytest.raises(Exception) as expected:  # noqa: PT011
        torch.autocast(**arguments)
    with pytest.raises(expected.type):
        fnn.autocast(**arguments)


def test_other_dtypes_warn_and_are_disabled():
    with pytest.warns(UserWarning, match="not supported. Disabling autocast"), torch.autocast("cpu", dtype=torch.float64):
        assert not torch.is_autocast_enabled("cpu")
    with pytest.warns(UserWarning, match="not supported. Disabling autocast"), fnn.autocast("cpu", dtype=jnp.float32):
        assert not precision.is_autocast_enabled()


def test_regions_nest():
    def dtype():
        return F.linear(X, W).dtype.name

    region = fnn.autocast(dtype=jnp.float16)
    with fnn.autocast():
        assert dtype() == "bfloat16"
        with region, region:
            assert dtype() == "float16"
        with fnn.autocast(enabled=False):
            assert dtype() == "float32"
            with pytest.raises(RuntimeError, match="same dtype"):
                F.linear(X.astype(jnp.bfloat16), W)
        with pytest.raises(ZeroDivisionError), region:
            1 / 0  # noqa: B018
        assert dtype() == "bfloat16"
        others = []
        thread = threading.Thread(target=lambda: others.append(dtype()))
        thread.start()
        thread.join()
        assert others == ["float32"]
    assert dtype() == "float32"


def test_as_a_decorator():
    @fnn.autocast(dtype=jnp.float16)
    def function(x, depth=2):
        """What it does."""
        return F.linear(x, W) if depth == 0 else function(x, depth - 1)

    assert function(X).dtype == jnp.float16
    assert function.__doc__ == "What it does."
    assert F.linear(X, W).dtype == np.float32


def test_float64_is_never_converted():
    with jax.enable_x64(True), fnn.autocast():
        x, w = jnp.asarray(X, np.float64), jnp.asarray(W, np.float64)
        assert F.linear(x, w).dtype == np.float64
        assert F.softmax(x, -1).dtype == np.float64
        with pytest.raises(RuntimeError, match="same dtype"):
            F.linear(x, jnp.asarray(W, np.float32))


def test_an_explicit_dtype_counts():
    with fnn.autocast():
        assert F.softmax(jnp.asarray(X), -1, dtype=jnp.bfloat16).dtype == jnp.bfloat16


def network():
    return nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))


def test_parameters_gradients_and_statistics_stay_in_float32():
    net = network()

    @fnn.jit
    def run(net, x):
        def loss(net):
            with fnn.autocast():
                out = net(x)
            return out.astype(jnp.float32).sum(), out

        return fnn.value_and_grad(loss, has_aux=True)(net)

    (_, out), grads = run(net, jnp.asarray(X))
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(grads)} == {"float32"}
    assert net[0].weight.dtype == net[1].running_mean.dtype == np.float32
    low = F.linear(*(jnp.asarray(x, jnp.bfloat16) for x in (X, net[0].weight, net[0].bias)))
    np.testing.assert_allclose(net[1].running_mean, 0.1 * low.astype(jnp.float32).mean(0), rtol=1e-2, atol=1e-4)


WAYS = {
    "jax.jit": lambda net: jax.jit(lambda x: net(x)),
    "fnn.jit": lambda net: fnn.jit(lambda x: net(x)),
    "fnn.jit with the module": lambda net: functools.partial(fnn.jit(lambda net, x: net(x)), net),
    "jax.checkpoint": lambda net: jax.checkpoint(lambda x: net(x)),
    "fnn.checkpoint": lambda net: fnn.checkpoint(net),
    "apply": lambda net: functools.partial(jax.jit(fnn.pure(net).apply), fnn.split(net)[0]),
    "vmap": lambda net: jax.vmap(lambda x: net(x)),
    "grad": lambda net: jax.jit(jax.grad(lambda x: net(x).astype(jnp.float32).sum())),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_compiled_outside_is_not_taken_for_what_is_compiled_inside(way):
    net = nn.Linear(6, 5)
    net.weight.data = W
    function = WAYS[way](net)
    x = jnp.asarray(X)
    wide = function(x)
    for _ in range(2):
        with fnn.autocast():
            low = function(x)
        with fnn.autocast(dtype=jnp.float16):
            half = function(x)
        assert wide.dtype == np.float32
        if way == "grad":
            assert (low != wide).any() and (half != low).any()  # noqa: PT018
        else:
            assert (low.dtype, half.dtype) == (jnp.bfloat16, jnp.float16)
        np.testing.assert_array_equal(function(x), wide)


def test_a_region_inside_of_what_is_compiled():
    @fnn.jit
    def function(x):
        with fnn.autocast():
            return F.linear(x, W)

    assert function(X).dtype == jnp.bfloat16
    assert F.linear(X, W).dtype == np.float32


def test_linear_cross_entropy_multiplies_in_the_lower_precision_and_adds_up_in_float32():
    x, w, t = jnp.asarray(X), jnp.asarray(W), jnp.asarray(integers(5, 4))
    rounded = [a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, w)]
    with fnn.autocast():
        for options in (None, nn.LinearCrossEntropyOptions(batch_chunk_size=2)):
            out = jax.jit(functools.partial(F.linear_cross_entropy, options=options))(x, w, t)
            np.testing.assert_allclose(out, F.cross_entropy(rounded[0] @ rounded[1].T, t), rtol=1e-6)


def test_without_autocast_nothing_is_done_to_operands():
    x = jnp.asarray(X)
    assert precision.to_lower(x) is x
    assert precision.to_float32(x, None) == (x, None)
    with fnn.autocast():
        assert [a.dtype.name for a in precision.to_lower(X, nn.Parameter(W), CLASSES)] == ["bfloat16", "bfloat16", "int32"]


# Policies


@pytest.mark.parametrize(
    ("parameters", "computation", "output"),
    [
        (np.float32, None, None),
        (np.float32, jnp.bfloat16, None),
        (np.float32, jnp.bfloat16, np.float32),
        (np.float32, np.float32, jnp.float16),
        (jnp.bfloat16, None, np.float32),
        (jnp.bfloat16, jnp.bfloat16, jnp.float16),
        (jnp.bfloat16, np.float32, None),
    ],
)
def test_policy(parameters, computation, output):
    net = network()
    seen = []
    net[0].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    keys = list(net.state_dict())
    policy = fnn.Policy(parameters, computation, output)
    assert policy.apply(net) is net
    x = jnp.asarray(X, parameters if computation is None else np.float32)

    @fnn.jit
    def run(x):
        return fnn.value_and_grad(lambda net: (net(x).astype(jnp.float32).sum(), net(x)), has_aux=True)(net)

    (_, out), grads = run(x)
    computed = parameters if computation is None else computation
    assert seen[0] == computed
    assert out.dtype == (computed if output is None else output)
    assert {value.dtype for name, value in net.state_dict().items() if "batches" not in name} == {np.dtype(parameters)}
    assert (net[1].running_mean != 0).any()
    assert list(net.state_dict()) == keys
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype(parameters)}


def test_a_policy_computes_what_autocast_does():
    net, x = network().eval(), jnp.asarray(X)
    with fnn.autocast():
        expected = fnn.jit(net)(x).astype(jnp.float32)
    np.testing.assert_allclose(fnn.jit(fnn.Policy().apply(net))(x), expected, rtol=1e-2, atol=1e-2)


def test_a_policy_holds_weights_in_16_bits_and_computes_in_float32():
    net, x = network().eval(), jnp.asarray(X)
    rounded = copy.deepcopy(net).bfloat16().float()
    fnn.Policy(jnp.bfloat16, jnp.float32).apply(net)
    np.testing.assert_allclose(fnn.jit(net)(x), fnn.jit(rounded)(x), rtol=1e-6)


@pytest.mark.parametrize("computation", [jnp.bfloat16, jnp.float32])
def test_a_policy_travels(computation):
    net, x = nn.Sequential(nn.Linear(6, 2)), jnp.asarray(X)
    fnn.Policy(jnp.bfloat16, computation, jnp.float32).apply(net)
    expected = net(x)
    params, _ = fnn.split(net)
    copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    assert [other.forward.args[1] for other in copies] == copies
    _, apply = fnn.pure(net)
    net[0].weight.data.zero_()
    for other in copies:
        np.testing.assert_array_equal(other(x), expected)
    with fnn.bound(net, params):
        np.testing.assert_array_equal(net(x), expected)
    fnn.Policy.remove(net)
    np.testing.assert_array_equal(apply(params, x), expected)
    np.testing.assert_allclose(jax.vmap(functools.partial(apply, params))(x), expected, rtol=1e-2, atol=1e-2)


def test_a_policy_is_removed_and_replaced_and_a_compiled_function_follows():
    net = nn.Linear(6, 5)
    net.forward = own = net.forward
    function = fnn.jit(lambda x: net(x))
    dtypes = [function(X).dtype.name]
    for output in (jnp.float16, jnp.bfloat16):
        fnn.Policy(output=output).apply(net)
        dtypes.append(function(X).dtype.name)
    fnn.Policy.remove(net)
    fnn.Policy.remove(net)
    assert [*dtypes, function(X).dtype.name] == ["float32", "float16", "bfloat16", "float32"]
    assert net.forward == own


def test_a_policy_of_a_part():
    net = network()
    fnn.Policy(computation=jnp.float32).apply(net[3])
    fnn.Policy(output=None).apply(net)
    run = fnn.jit(net)
    assert run(jnp.asarray(X)).dtype == np.float32
    fnn.Policy.remove(net[3])
    assert run(jnp.asarray(X)).dtype == jnp.bfloat16


def test_a_policy_of_lazy_modules():
    net = nn.Sequential(nn.LazyLinear(3))
    assert fnn.Policy().apply(net)(X).dtype == np.float32
    net = fnn.Policy(jnp.bfloat16, np.float32).apply(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(fnn.StateError, match="call the module once before"):
        net(X)


def test_a_policy_takes_floats():
    with pytest.raises(TypeError, match="floating point dtypes, but got computation=int32"):
        fnn.Policy(computation=jnp.int32)


# Scaling of losses

GRADIENTS = [1.0, np.inf, 1.0, 2.0, np.nan, np.nan, 1.0, 1.0, 1.0, 1.0, 3e38]


def torch_scaler(loop):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], 0.5, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    for gradient in GRADIENTS:
        parameter.grad = None
        scaler.scale(parameter * torch.tensor([1.0, gradient])).sum().backward()
        if loop == "unscale_":
            scaler.unscale_(optimizer)
            parameter.grad.clamp_(-1, 1)
        scaler.step(optimizer)
        scaler.update()
        yield scaler.get_scale(), parameter.detach().clone(), scaler.state_dict()


@pytest.mark.parametrize(
    ("loop", "compile"),
    [
        ("grads", fnn.jit),
        ("unscale_", fnn.jit),
        (".grad", fnn.jit),
        (".grad unscale_", fnn.jit),
        (".grad unscale_", lambda f: f),
    ],
)
def test_scales_and_steps_are_those_of_torch(loop, compile):
    net = nn.Module()
    net.weight = nn.Parameter(np.ones(2, np.float32))
    optimizer = fnn.optim.Optimizer(net, optax.sgd(0.5, momentum=0.9))
    scaler = fnn.GradScaler("cpu", init_scale=8.0, growth_interval=2)

    @compile
    def step(gradient):
        def loss(net):
            return scaler.scale(net.weight * jnp.stack([jnp.ones(()), gradient])).sum()

        grads = None
        if loop.startswith(".grad"):
            optimizer.zero_grad()
            fnn.backward(loss, net)
        else:
            grads = fnn.grad(loss)(net)
        if loop.endswith("unscale_"):
            grads = scaler.unscale_(optimizer, grads)
            if grads is None:
                net.weight.grad = net.weight.grad.clip(-1, 1)
            else:
                grads = jax.tree.map(lambda g: g.clip(-1, 1), grads)
        scaler.step(optimizer, grads)
        scaler.update()

    gradients = GRADIENTS if compile is fnn.jit else GRADIENTS[:4]
    expected = torch_scaler("unscale_" if loop.endswith("unscale_") else "step")
    for gradient, (scale, values, state) in zip(gradients, expected, strict=False):
        step(jnp.float32(gradient))
        assert scaler.get_scale() == scale
        assert scaler.state_dict() == state
        np.testing.assert_allclose(net.weight, values, rtol=1e-6)
    if compile is fnn.jit:
        assert step._compiled <= 2


def test_a_scaler_goes_on_from_a_state():
    theirs = torch.amp.GradScaler("cpu", init_scale=32.0)
    ours = fnn.GradScaler()
    ours.load_state_dict({**theirs.state_dict(), "scale": 32.0})
    assert ours.state_dict() == {**theirs.state_dict(), "scale": 32.0}
    copies = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    ours.update(4.0)
    assert ours.get_scale() == 4.0
    assert [other.get_scale() for other in copies] == [32.0, 32.0]
    with pytest.raises(RuntimeError, match="empty"):
        ours.load_state_dict({})


def test_a_scaler_that_is_not_enabled_does_nothing():
    net = nn.Linear(2, 1)
    optimizer = fnn.optim.Optimizer(net, optax.sgd(1.0))
    scaler, before = fnn.GradScaler(enabled=False), net.bias.value
    x = jnp.ones(())
    assert scaler.scale(x) is x
    scaler.step(optimizer, jax.tree.map(jnp.ones_like, fnn.split(net)[0]))
    scaler.update()
    np.testing.assert_allclose(net.bias, before - 1)
    assert (scaler.state_dict(), scaler.get_scale(), scaler.is_enabled()) == ({}, 1.0, False)


def test_what_a_scaler_refuses():
    for arguments in ({"growth_factor": 1.0}, {"backoff_factor": 1.0}):
        with pytest.raises(AssertionError):
            torch.amp.GradScaler("cpu", **arguments)
        with pytest.raises(AssertionError):
            fnn.GradScaler(**arguments)
    net = nn.Linear(2, 1)
    optimizer, scaler = fnn.optim.Optimizer(net, optax.sgd(1.0)), fnn.GradScaler()
    grads = jax.tree.map(jnp.ones_like, fnn.split(net)[0])
    with pytest.raises(AssertionError, match="No inf checks"):
        scaler.update()
    scaler.unscale_(optimizer, grads)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.unscale_(optimizer, grads)
    with pytest.raises(ValueError, match="FP16"):
        scaler.step(optimizer, jax.tree.map(lambda g: g.astype(jnp.float16), grads))


def test_no_warning_is_given_from_within_the_library():
    with warnings.catch_warnings(record=True) as caught, fnn.autocast():
        warnings.simplefilter("always")
        F.softmax(jnp.asarray(X))
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("method", ["step", "unscale_"])
def test_a_step_is_taken_once_before_an_update(method):
    theirs, ours = torch.nn.Linear(2, 1), nn.Linear(2, 1)
    scalers = torch.amp.GradScaler("cpu"), fnn.GradScaler("cpu")
    optimizers = torch.optim.SGD(theirs.parameters(), 0.1), fnn.optim.Optimizer(ours, optax.sgd(0.1))
    scalers[0].scale(theirs(torch.ones(2)).sum()).backward()
    fnn.backward(lambda net: scalers[1].scale(net(jnp.ones(2)).sum()), ours)
    for scaler, optimizer in zip(scalers, optimizers, strict=True):
        scaler.step(optimizer)
        with pytest.raises(RuntimeError, match=r"since the last update|being called after step"):
            getattr(scaler, method)(optimizer)
        scaler.update()
