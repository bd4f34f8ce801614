"""An LSTM by cuDNN is the scan: values, all derivatives, and the conditions under which it is chosen.

There is no GPU here. JAX's reference for cuDNN, which takes the same operands, is in its place.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from jax.extend.core import Primitive
from jax.interpreters import mlir
from oracle import normal

import fnn
import fnn.functional as F
from fnn.kernels import rnn as kernel
from fnn.kernels.derivative import faster

CALLS = ["cudnn_rnn_ffi", "cudnn_rnn_bwd_ffi"]
PLATFORMS = ["cpu", "cuda", "tpu"]
SIZE, HIDDEN, TIME, BATCH = 3, 4, 5, 2


def reference(*operands, input_size, hidden_size, num_layers, dropout, bidirectional, cudnn_allow_tf32):
    """The operation that JAX gives to cuDNN; the last output is for the gradient only."""
    x, h, c, weights, lengths = operands
    options = input_size, hidden_size, num_layers
    unpacked = rnn.unpack_lstm_weights(weights, *options, bidirectional)
    return *rnn.lstm_ref(x, h, c, *unpacked, lengths, *options, dropout, bidirectional), jnp.zeros(1)


def reference_gradient(*operands, **options):
    cotangents, (x, h, c, weights, *_, lengths) = operands[:3], operands[3:]
    function = functools.partial(reference, **options)
    return jax.vjp(lambda *a: function(*a, lengths)[:3], x, h, c, weights)[1](cotangents)


def stand_in(target, abstract, function):
    """An operation that is a call of that target on CUDA, and otherwise a function."""

    def call(*operands, **options):
        results = abstract(*map(jax.typeof, operands), **options)
        return jax.ffi.ffi_call(target, [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results])(*operands)

    operation = Primitive(target)
    operation.multiple_results = True
    operation.def_abstract_eval(abstract)
    mlir.register_lowering(operation, mlir.lower_fun(function, multiple_results=True))
    mlir.register_lowering(operation, mlir.lower_fun(call, multiple_results=True), platform="cuda")
    return operation


@pytest.fixture
def on_nvidia(monkeypatch):
    """A machine with a GPU, as far as the choice of cuDNN goes."""
    space = types.SimpleNamespace(compute_rnn_workspace_reserve_space_sizes=lambda *_: (1, 1))
    monkeypatch.setattr(rnn, "gpu_rnn", space)
    monkeypatch.setattr(rnn, "rnn_fwd_p", stand_in(CALLS[0], rnn.rnn_abstract_eval, reference))
    monkeypatch.setattr(rnn, "rnn_bwd_p", stand_in(CALLS[1], rnn.rnn_bwd_abstract_eval, reference_gradient))
    monkeypatch.setattr(kernel, "on_nvidia", lambda: True)
    kernel._fused.clear_cache()
    kernel._stack.clear_cache()
    yield
    kernel._fused.clear_cache()
    kernel._stack.clear_cache()


@pytest.fixture
def fast_here(on_nvidia, monkeypatch):
    """What is chosen for CUDA runs on the CPU."""
    chosen = []

    def here(*operands, platform, **options):
        chosen.append(platform)
        return faster(*operands, platform="cpu", **options)

    monkeypatch.setattr(kernel, "faster", here)
    yield
    assert set(chosen) == {"cuda"}


def operands(layers=1, directions=1, biases=True, dtype=np.float32, time=TIME, projected=0):
    """An input, states and parameters."""
    count, out, rows = layers * directions, projected or HIDDEN, 4 * HIDDEN
    shapes = []
    for layer in range(layers):
        one = [(rows, out * directions if layer else SIZE), (rows, out), *[(rows,)] * (2 * biases)]
        shapes += (one + [(projected, HIDDEN)] * bool(projected)) * directions
    params = [normal(*shape, dtype=dtype) * dtype(0.5) for shape in shapes]
    hx = tuple(normal(count, BATCH, size, dtype=dtype) for size in (out, HIDDEN))
    return jax.tree.map(jnp.asarray, (normal(time, BATCH, SIZE, dtype=dtype), hx, params))


def lstm(x, hx, params, layers=1, directions=1, biases=True, dropout=0.0, train=False):
    return F.lstm(x, hx, params, biases, layers, dropout, train, directions == 2, False)


def loss(function):
    return lambda *a: sum((y * (1 + jnp.arange(y.shape[-1]))).sum() + (y**2).sum() for y in function(*a))


def gradient(function):
    return jax.grad(loss(function), (0, 1, 2))


def is_chosen(function, *arguments):
    return "_or_other" in str(jax.make_jaxpr(lambda *a: function(*a))(*arguments))  # JAX keeps what it traced, by function


def calls(function, *arguments, platform="cuda"):
    """How often cuDNN is called, for the value and for the gradient, and whether there is a loop."""
    text = jax.jit(lambda *a: function(*a)).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    return *(text.count(f"@{call}(") for call in CALLS), "stablehlo.while" in text


def both_ways(function):
    def call(*arguments):
        ours = function(*arguments)
        with fnn.plain_kernels():
            return ours, function(*arguments)

    return call


def assert_is_the_scan(function, *arguments):
    ours, theirs = jax.jit(both_ways(function))(*arguments)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, float(jnp.abs(b).max())))  # sums of numbers of that size


@pytest.mark.parametrize(("layers", "directions", "biases"), [(2, 1, False), (2, 2, True)])
@pytest.mark.usefixtures("fast_here")
def test_value_and_gradient_are_those_of_the_scan(layers, directions, biases):
    function = functools.partial(lstm, layers=layers, directions=directions, biases=biases)
    assert_is_the_scan(lambda *a: (function(*a), gradient(function)(*a)), *operands(layers, directions, biases))


TRANSFORMATIONS = {
    "jvp": lambda f, a: jax.jvp(f, a, a),
    "second": lambda f, a: jax.jvp(gradient(f), a, a),
    "reverse over reverse": lambda f, a: gradient(lambda *b: jax.tree.leaves(gradient(f)(*b)))(*a),
    "gradient in one": lambda f, a: jax.grad(lambda w: f(*a[:2], [w, *a[2][1:]])[1].sum())(a[2][0]),
    "vmap": lambda f, a: jax.vmap(lambda x: f(x, *a[1:]))(jnp.stack([a[0], -a[0]])),
    "vmap of gradient": lambda f, a: jax.vmap(gradient(f), (2, None, None))(jnp.stack([a[0], -a[0]], 2), *a[1:]),
    "gradient of vmap": lambda f, a: gradient(jax.vmap(f, (None, 0, None)))(a[0], [jnp.stack([s, -s]) for s in a[1]], a[2]),
    "checkpoint": lambda f, a: gradient(jax.checkpoint(f))(*a),
}


@pytest.mark.parametrize("transformation", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)
@pytest.mark.usefixtures("fast_here")
def test_all_derivatives_are_those_of_the_scan(transformation):
    assert_is_the_scan(lambda *a: transformation(lstm, a), *operands(time=3))


@pytest.mark.usefixtures("on_nvidia")
def test_cudnn_has_value_and_gradient_and_the_scan_what_else_there_is():
    arguments = operands(2, 2)
    function = functools.partial(lstm, layers=2, directions=2)
    assert calls(function, *arguments) == (1, 0, False)
    assert calls(gradient(function), *arguments) == (2, 1, False)
    assert calls(lambda *a: jax.jvp(function, a, a)[1], *arguments) == (0, 0, True)
    mapped = jnp.stack([arguments[0]] * 2), *arguments[1:]
    assert calls(jax.vmap(gradient(function), (0, None, None)), *mapped) == (0, 0, True)
    for platform in ("cpu", "tpu"):
        assert calls(gradient(function), *arguments, platform=platform) == (0, 0, True)
    with fnn.plain_kernels():
        assert calls(gradient(function), *arguments) == (0, 0, True)


@pytest.mark.usefixtures("on_nvidia")
def test_dropout_is_between_calls():
    def dropped(*arguments, train):
        with fnn.rng(0):
            return lstm(*arguments, layers=2, dropout=0.5, train=train)

    for train, count in ((True, 2), (False, 1)):
        assert calls(functools.partial(dropped, train=train), *operands(2)) == (count, 0, False)


@pytest.mark.usefixtures("fast_here")
def test_dropout_is_that_of_the_scan():
    def dropped(*arguments):
        with fnn.rng(0):
            return lstm(*arguments, layers=2, dropout=0.5, train=True)

    assert_is_the_scan(dropped, *operands(2))


@pytest.mark.usefixtures("on_nvidia")
def test_under_shard_map_gradients_of_what_devices_share_are_summed_once():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    divided, whole = jax.P(None, "data"), jax.P()
    arguments = operands()
    for check in (True, False):
        specs = (divided, divided, whole)
        inside = jax.shard_map(gradient(lstm), mesh=mesh, in_specs=specs, out_specs=specs, check_vma=check)
        assert calls(inside, *arguments) == (2, 1, False)
        total = jax.shard_map(
            lambda *a: jax.lax.psum(loss(lstm)(*a), "data"), mesh=mesh, in_specs=specs, out_specs=whole, check_vma=check
        )
        assert calls(jax.grad(total, (0, 1, 2)), *arguments) == (2, 1, False)
    text = str(jax.make_jaxpr(jax.shard_map(gradient(lstm), mesh=mesh, in_specs=specs, out_specs=specs))(*arguments))
    assert text.count("psum") == len(arguments[2])


@pytest.mark.usefixtures("on_nvidia")
def test_it_exports_for_each_platform_where_its_calls_are_allowed():
    arguments, function = operands(), jax.jit(gradient(lambda *a: lstm(*a)))
    allowed = [jax.export.DisabledSafetyCheck.custom_call(call) for call in CALLS]
    exported = jax.export.export(function, platforms=PLATFORMS, disabled_checks=allowed)(*arguments)
    assert list(exported.platforms) == PLATFORMS
    assert all(call in exported.mlir_module() for call in CALLS)
    with pytest.raises(ValueError, match="cudnn_rnn"):
        jax.export.export(function, platforms=PLATFORMS)(*arguments)


def test_without_a_gpu_nothing_is_for_cudnn_and_all_is_exported():
    arguments = operands()
    assert not is_chosen(lstm, *arguments)
    assert (
        list(jax.export.export(jax.jit(gradient(lambda *a: lstm(*a))), platforms=PLATFORMS)(*arguments).platforms) == PLATFORMS
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.usefixtures("on_nvidia")
def test_16_bits_are_computed_in_32(dtype):
    arguments = jax.tree.map(lambda x: x.astype(dtype), operands())
    assert is_chosen(lstm, *arguments)
    assert all(x.dtype == dtype for x in jax.eval_shape(lstm, *arguments))


@pytest.mark.usefixtures("on_nvidia")
def test_cudnn_is_not_chosen_for_what_it_does_not_take(monkeypatch):
    assert not is_chosen(lstm, *operands(projected=2))
    x, hx, params = operands()
    assert not is_chosen(lstm, x[:, :0], [s[:, :0] for s in hx], params)
    gru = [jnp.ones((3 * HIDDEN, n)) for n in (SIZE, HIDDEN)]
    assert not is_chosen(lambda: F.gru(x, hx[0], gru, False, 1, 0.0, False, False, False))
    with jax.enable_x64(True):
        assert not is_chosen(lstm, *operands(dtype=np.float64))
    with fnn.plain_kernels():
        assert not is_chosen(lstm, x, hx, params)
    packed = jnp.ones((7, SIZE)), jnp.array([2, 2, 2, 1]), hx, params
    assert not is_chosen(lambda *a: F.lstm(*a, True, 1, 0.0, False, False), *packed)
    for name, most in (("STATES", TIME * BATCH * (SIZE + HIDDEN)), ("STEPS", TIME)):
        assert is_chosen(lstm, x, hx, params)
        monkeypatch.setattr(kernel, name, most - 1)
        assert not is_chosen(lstm, x, hx, params)
        monkeypatch.setattr(kernel, name, most)


@pytest.mark.parametrize(
    ("precision", "tf32"),
    [(None, True), ("high", True), ("tensorfloat32", True), ("highest", False), ("float32", False)],
)
@pytest.mark.usefixtures("on_nvidia")
def test_cudnn_has_the_precision_that_is_asked_for(precision, tf32):
    with jax.default_matmul_precision(precision):
        value, transpose = jax.vjp(jax.jit(lambda *a: lstm(*a)), *operands())
    with jax.default_matmul_precision("bfloat16"):  # where the gradient is asked for does not matter
        text = str(jax.make_jaxpr(transpose)(value))
    assert text.count(f"cudnn_allow_tf32={tf32}") == 2


@pytest.mark.parametrize("precision", ["bfloat16", "default", "F32_F32_F32"])
@pytest.mark.usefixtures("on_nvidia")
def test_cudnn_is_not_chosen_for_other_precisions(precision):
    with jax.default_matmul_precision(precision):
        assert not is_chosen(lstm, *operands())


@pytest.mark.usefixtures("on_nvidia")
def test_cudnn_is_chosen_only_where_the_devices_of_an_operand_are_known(monkeypatch):
    x, *others = operands()
    for kind in (jax.sharding.AxisType.Explicit, jax.sharding.AxisType.Auto):
        mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))
        assert not is_chosen(lstm, jax.device_put(x, jax.NamedSharding(mesh, jax.P())), *others)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert not is_chosen(lstm, x, *others)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
@pytest.mark.usefixtures("on_nvidia")
def test_cudnn_is_not_chosen_where_jax_has_none(error, monkeypatch):
    def refuse(*_, **__):
        raise error("no attribute 'compute_rnn_workspace_reserve_space_sizes'")

    monkeypatch.setattr(rnn, "lstm_fwd", refuse)
    assert not is_chosen(lstm, *operands())


@pytest.mark.usefixtures("fast_here")
def test_a_second_eager_call_traces_nothing(monkeypatch):
    arguments, traced, packed = operands(), [], kernel._packed
    monkeypatch.setattr(kernel, "_packed", lambda weights: traced.append(1) or packed(weights))
    gradient(lstm)(*arguments)
    before = len(traced)
    gradient(lstm)(*arguments)
    assert len(traced) == before > 0
