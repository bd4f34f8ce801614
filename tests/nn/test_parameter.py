"""Parameter and Buffer as arrays, as torch's handles, and as places for traced values."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
import fnn.nn as nn

VALUE = np.arange(6.0, dtype=np.float32).reshape(2, 3)

EXPRESSIONS = [
    lambda p: p + 1,
    lambda p: 1 - p,
    lambda p: p * p,
    lambda p: 2 / (p + 1),
    lambda p: p // 2,
    lambda p: p % 2,
    lambda p: p**2,
    lambda p: 2**p,
    lambda p: p @ p.T,
    lambda p: jnp.ones((4, 2)) @ p,
    lambda p: -p,
    lambda p: abs(-p),
    lambda p: (p > 2) | (p == 0),
    lambda p: p[0],
    lambda p: p[:, 1:],
    lambda p: p.sum(0),
    lambda p: p.reshape(3, 2).mean(),
    lambda p: p.astype(jnp.int32),
    lambda p: p.at[0, 0].set(5),
    lambda p: jnp.sum(p, axis=1),
    lambda p: jnp.where(p > 1, p, 0),
    lambda p: jnp.concatenate([p, p]),
    lambda p: jnp.einsum("ij,kj->ik", p, p),
    lambda p: jax.nn.softmax(p),
    lambda p: np.asarray(p) + 1,
    lambda p: jnp.stack(list(p)),
    lambda p: jnp.full(2, len(p)),
]


@pytest.mark.parametrize("number", range(len(EXPRESSIONS)))
def test_behaves_as_its_array(number):
    expression = EXPRESSIONS[number]
    expected = expression(jnp.asarray(VALUE))
    np.testing.assert_array_equal(expression(nn.Parameter(VALUE)), expected)
    p = nn.Parameter(VALUE)
    np.testing.assert_allclose(fnn.jit(lambda: expression(p) if number != 24 else p + 1)(), expected, rtol=1e-6)


def test_attributes():
    p = nn.Parameter(nn.init.zeros, (2, 3), jnp.bfloat16)
    assert (p.shape, p.ndim, p.dim(), p.numel(), p.dtype) == ((2, 3), 2, 2, 6, jnp.bfloat16)
    assert p._value is None, "told without drawing the value"
    assert (p.size, p.T.shape, float(p.sum())) == (6, (3, 2), 0.0)
    with pytest.raises(AttributeError, match="nonsense"):
        p.nonsense  # noqa: B018


def test_is_a_pytree_of_its_array():
    p = nn.Parameter(VALUE)
    assert [type(leaf) for leaf in jax.tree.leaves({"p": p})] == [type(p.value)]
    seen = []
    jax.jit(lambda tree: seen.append(type(tree["p"])))({"p": p})
    assert issubclass(seen[0], jax.core.Tracer)

    class Special(nn.Parameter):
        pass

    np.testing.assert_array_equal(jnp.sum(Special(VALUE)), VALUE.sum())


def test_idioms_of_torch():
    p = nn.Parameter(VALUE)
    p.data.fill_(2.0)
    np.testing.assert_array_equal(p, np.full((2, 3), 2.0))
    p.data.zero_()
    p.data = VALUE
    np.testing.assert_array_equal(p, VALUE)
    p.data[0] = 7.0
    np.testing.assert_array_equal(p[0], [7.0, 7.0, 7.0])
    same = p
    p += 1
    assert p is same
    np.testing.assert_array_equal(p[0], [8.0, 8.0, 8.0])
    p.copy_(np.float64(3.0))
    np.testing.assert_array_equal(p, np.full((2, 3), 3.0))
    assert p.detach().shape == p.clone().shape == (2, 3)
    assert p.requires_grad_(False) is p
    assert not p.requires_grad
    for draw in (p.normal_, p.uniform_):
        assert len(np.unique(draw())) == 6
    assert not nn.Parameter(VALUE, False).requires_grad
    assert not nn.Parameter(VALUE, requires_grad=False).requires_grad
    with pytest.raises(RuntimeError, match="floating point and complex dtype can require gradients, got int32"):
        nn.Parameter(np.arange(3, dtype=np.int32))


def test_an_initialiser_is_drawn_once_at_first_access_also_inside_a_trace():
    drawn = []

    def initialiser(key, shape, dtype):
        drawn.append(key)
        return jax.random.normal(key, shape, dtype)

    p = nn.Parameter(initialiser, (3,))
    assert drawn == []
    inside = jax.jit(lambda x: p * x)(jnp.ones(3))
    assert not isinstance(p._value, jax.core.Tracer)
    np.testing.assert_array_equal(p, inside)
    assert len(drawn) == 1


@pytest.mark.parametrize("transform", ["jit", "vmap", "grad", "scan", "shard_map", "eval_shape"])
def test_a_first_access_inside_any_transformation_leaves_no_tracer(transform):
    p = nn.Parameter(nn.init.normal(), ())
    mesh = jax.make_mesh((1,), ("i",))
    spec = jax.sharding.PartitionSpec()
    {
        "jit": lambda f: jax.jit(f)(1.0),
        "vmap": lambda f: jax.vmap(f)(jnp.ones(2)),
        "grad": lambda f: jax.grad(f)(1.0),
        "scan": lambda f: jax.lax.scan(lambda c, _: (f(c), None), 1.0, None, length=2),
        "shard_map": lambda f: jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec)(jnp.ones(())),
        "eval_shape": lambda f: jax.eval_shape(f, 1.0),
    }[transform](lambda x: p * x)
    assert not isinstance(p._value, jax.core.Tracer)
    assert np.isfinite(float(p))


def test_a_traced_value_makes_no_parameter():
    with pytest.raises(fnn.StateError, match="traced value"):
        jax.jit(lambda x: nn.Parameter(x) * 1)(jnp.ones(3))


def test_a_buffer_keeps_the_dtype_that_it_was_declared_with():
    net = nn.Module()
    net.register_buffer("count", np.array(3, np.int64))
    assert net.count.dtype == np.int32
    net.count += 1
    exported = net.state_dict()["count"]
    assert (exported.dtype, int(exported)) == (np.int64, 4)
    with pytest.raises(OverflowError, match="does not fit int32"):
        nn.Buffer(np.array(2**40))


def test_copies():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net[0].weight.grad = jnp.ones((2, 2))
    net.register_buffer("mask", np.ones(2), persistent=False)
    drawn = copy.deepcopy(net)
    np.testing.assert_array_equal(drawn[0].weight, net[0].weight)
    np.testing.assert_array_equal(drawn[0].weight.grad, net[0].weight.grad)
    drawn[0].weight.data.zero_()
    drawn[0].bias.requires_grad = False
    assert (net[0].weight != 0).any()
    assert net[0].bias.requires_grad
    again = pickle.loads(pickle.dumps(net))
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], value)
        assert again.state_dict()[name].dtype == value.dtype
    assert "mask" not in again.state_dict()


def test_a_tied_weight_stays_tied_in_a_copy():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    assert copy.deepcopy(net)[0].weight is not net[0].weight
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert copied[0].weight is copied[1].weight


def test_repr():
    assert repr(nn.Parameter(nn.init.zeros, (2, 3))) == "Parameter containing:\nshape=(2, 3), dtype=float32"
    assert repr(nn.Buffer(np.float32(1.0))) == "Buffer containing:\n1.0"


def test_a_shape_is_not_negative():
    with pytest.raises(RuntimeError, match=r"negative dimension -1: \[4, -1\]"):
        nn.Parameter(jax.nn.initializers.ones, (4, -1))
