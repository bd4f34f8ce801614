"""Batch normalization layers agree with torch's."""

import copy
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from oracle import assert_close, assert_layers_agree, assert_refused, normal, tensor, torch

import fnn.nn

SHAPES = {
    "BatchNorm1d": (4, 3),
    "BatchNorm2d": (2, 3, 4, 5),
    "BatchNorm3d": (2, 3, 2, 3, 2),
    "SyncBatchNorm": (2, 3, 2, 2, 2, 2),
}
OPTIONS = [
    {},
    {"momentum": 0.3, "eps": 0.01},
    {"momentum": None},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
]


def pair(name, *args, **options):
    """Layers of fnn and of torch with other parameters and statistics than the initial ones."""
    theirs = getattr(torch.nn, name)(*args, **options)
    for value in theirs.state_dict().values():
        value.copy_(torch.rand(value.shape) * 3 + 1)
    return getattr(fnn.nn, name)(*args, **options), theirs


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options, training):
    ours, theirs = pair("BatchNorm1d", 3, **options)
    assert_layers_agree(ours, theirs.train(training), normal(4, 3, 5) + 1, tolerance=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_dimensions(name, training):
    ours, theirs = pair(name, 3)
    assert_layers_agree(ours, theirs.train(training), normal(*SHAPES[name]), tolerance=1e-4)


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_statistics_after_many_batches(options):
    ours, theirs = pair("BatchNorm1d", 3, **options)
    ours.load_state_dict(theirs.state_dict())
    for i in range(5):
        x = normal(4, 3) * i + i
        ours(x)
        theirs(tensor(x))
    for name, value in ours.state_dict().items():
        assert_close(value, theirs.state_dict()[name], what=name)
    theirs.reset_running_stats()
    ours.reset_running_stats()
    for name, value in ours.state_dict().items():
        assert_close(value, theirs.state_dict()[name], what=name)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_bfloat16(whole, training):
    ours, theirs = (layer.bfloat16() if whole else layer for layer in pair("BatchNorm1d", 3))
    assert_layers_agree(ours, theirs.train(training), normal(8, 3, 5, dtype=jnp.bfloat16), tolerance=4e-2)


def test_counts_batches_in_64_bits():
    norm = fnn.nn.BatchNorm1d(3)
    norm(jnp.ones((2, 3)))
    counter = norm.state_dict()["num_batches_tracked"]
    assert (counter, counter.dtype, counter.shape) == (1, np.int64, ())


def test_loads_checkpoints_that_did_not_count_batches():
    ours, theirs = pair("BatchNorm1d", 3)
    ours.load_state_dict(theirs.state_dict())
    old = theirs.state_dict()
    del old["num_batches_tracked"], old._metadata
    expected = copy.deepcopy(theirs)
    expected.load_state_dict(copy.copy(old))
    ours.load_state_dict(old)
    assert ours.num_batches_tracked.item() == expected.num_batches_tracked.item()


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("BatchNorm1d", (2, 3, 4, 5), ["2D or 3D", "4D", "(2, 3, 4, 5)"]),
        ("BatchNorm1d", (3,), ["2D or 3D", "1D"]),
        ("BatchNorm2d", (2, 3, 4), ["4D", "3D"]),
        ("BatchNorm3d", (2, 3, 4, 5), ["5D", "4D"]),
        ("BatchNorm1d", (2, 4), ["4 elements, not 3", "(2, 4)"]),
        ("BatchNorm2d", (1, 3, 1, 1), ["more than 1 value per channel", "[1, 3, 1, 1]"]),
        ("SyncBatchNorm", (3,), ["at least 2D", "1D"]),
        ("SyncBatchNorm", (2, 0), ["channels", "non-zero"]),
    ],
)
def test_refuses(name, shape, words):
    assert_refused(lambda nn, array: getattr(nn, name)(3)(array(normal(*shape))), *words)


def test_refuses_one_value_a_channel_without_counting_it():
    norm = fnn.nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="more than 1 value"):
        norm(jnp.ones((1, 3)))
    assert norm.num_batches_tracked.item() == 0


def whole_and_parts(momentum=0.1):
    """A BatchNorm, and a function of its values and a batch, the same for a SyncBatchNorm that sees parts of the batch."""
    norms = fnn.nn.BatchNorm1d(3, momentum=momentum), fnn.nn.SyncBatchNorm(3, momentum=momentum, axis_name="batch")
    _, state = fnn.split(norms[0])
    params = {"weight": jnp.arange(1.0, 4.0), "bias": jnp.arange(3.0)}

    def of(norm):
        _, apply = fnn.pure(norm)
        return lambda params, x: apply(params, x, state=state, training=True)

    return params, of(norms[0]), of(norms[1])


def assert_same(ours, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, expected)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("each", [1, 2])
def test_sync_batch_norm_takes_the_statistics_over_a_mapped_axis(each, momentum):
    params, whole, part = whole_and_parts(momentum)
    x, cotangent = jnp.asarray(normal(4 * each, 3, 5)), jnp.asarray(normal(4 * each, 3, 5))

    def parts(params, x):
        y, state = jax.vmap(part, (None, 0), axis_name="batch")(params, x.reshape(4, each, 3, 5))
        return y.reshape(x.shape), jax.tree.map(lambda v: v[0], state)

    expected, pull, state = jax.vjp(whole, params, x, has_aux=True)
    ours, pull_ours, state_ours = jax.vjp(parts, params, x, has_aux=True)
    assert_same((ours, state_ours, pull_ours(cotangent)), (expected, state, pull(cotangent)))


def test_sync_batch_norm_takes_the_statistics_over_the_devices_of_shard_map():
    params, whole, part = whole_and_parts()
    mesh = jax.make_mesh((len(jax.devices()),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    x, cotangent = jnp.asarray(normal(4 * mesh.size, 3)), jnp.asarray(normal(4 * mesh.size, 3))
    parts = jax.jit(jax.shard_map(part, mesh=mesh, in_specs=(P(), P("batch")), out_specs=(P("batch"), P())))
    expected, pull, state = jax.vjp(whole, params, x, has_aux=True)
    ours, pull_ours, state_ours = jax.vjp(parts, params, x, has_aux=True)
    assert_same((ours, state_ours, pull_ours(cotangent)), (expected, state, pull(cotangent)))


def test_sync_batch_norm_needs_no_axis_for_arrays_sharded_under_jit():
    mesh = jax.make_mesh((len(jax.devices()),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    norms = [fnn.nn.SyncBatchNorm(3) for _ in range(2)]
    x = jnp.asarray(normal(4 * mesh.size, 3))
    sharded = fnn.jit(norms[0])(jax.device_put(x, NamedSharding(mesh, P("batch"))))
    assert_same(sharded, norms[1](x))
    assert_same(fnn.split(norms[0]), fnn.split(norms[1]))


def test_evaluation_takes_nothing_from_other_parts():
    norm = fnn.nn.SyncBatchNorm(3, axis_name="batch").eval()
    assert norm(jnp.ones((1, 3))).shape == (1, 3)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_converting_keeps_parameters_buffers_and_mode(options):
    net = fnn.nn.Sequential(fnn.nn.BatchNorm1d(3, **options), fnn.nn.Sequential(fnn.nn.BatchNorm2d(4).eval()), fnn.nn.ReLU())
    theirs = torch.nn.Sequential(
        torch.nn.BatchNorm1d(3, **options), torch.nn.Sequential(torch.nn.BatchNorm2d(4).eval()), torch.nn.ReLU()
    )
    before = net._named_cells()
    converted = fnn.nn.SyncBatchNorm.convert_sync_batchnorm(net, "group", axis_name="batch")
    expected = torch.nn.SyncBatchNorm.convert_sync_batchnorm(theirs, "group")
    assert converted is net
    assert repr(net) == repr(expected)
    assert list(net.state_dict()) == list(expected.state_dict())
    assert [m.training for m in net.modules()] == [m.training for m in expected.modules()]
    assert {name: id(cell) for name, cell in net._named_cells().items()} == {name: id(cell) for name, cell in before.items()}
    assert (net[0].process_group, net[1][0].axis_name) == ("group", "batch")


def test_converting_a_batch_norm_itself_gives_another_layer():
    norm = fnn.nn.BatchNorm1d(3)
    converted = fnn.nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    assert type(converted) is fnn.nn.SyncBatchNorm
    assert converted.weight is norm.weight
    assert type(norm) is fnn.nn.BatchNorm1d


def test_sync_batch_norm_on_four_devices():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "devices_of_shard_map or sharded_under_jit",
    ]
    run = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True, check=False)
    assert "2 passed" in run.stdout, run.stdout
