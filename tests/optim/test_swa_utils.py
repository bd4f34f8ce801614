"""Averaged models, compared with torch.optim.swa_utils."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import assert_close, normal, tensor, torch

import fnn
import fnn.nn as nn
from fnn.optim import swa_utils

theirs_utils = torch.optim.swa_utils


def nets():
    """The same network in fnn and in torch."""
    pair = [
        library.Sequential(library.Linear(3, 4), library.BatchNorm1d(4), library.Linear(4, 2)) for library in (nn, torch.nn)
    ]
    pair[0].load_state_dict(pair[1].state_dict())
    return pair


def in_place(averaged, current, count):
    for a, c in zip(averaged, current, strict=True):
        a.copy_(a * 0.25 + c * 0.75 + (count - count))


OPTIONS = {
    "equal weights": lambda utils: {},
    "equal weights, buffers": lambda utils: {"use_buffers": True},
    "exponential": lambda utils: {"avg_fn": utils.get_ema_avg_fn(0.9)},
    "exponential, buffers": lambda utils: {"multi_avg_fn": utils.get_ema_multi_avg_fn(0.6), "use_buffers": True},
    "equal weights, of lists": lambda utils: {"multi_avg_fn": utils.get_swa_multi_avg_fn()},
    "own": lambda utils: {"avg_fn": lambda a, c, n: a * n / (n + 2) + c / (n + 2)},
    "own, of lists": lambda utils: {"multi_avg_fn": in_place},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_averages_are_those_of_torch_in_a_compiled_step(name):
    ours, theirs = nets()
    average = swa_utils.AveragedModel(ours, **OPTIONS[name](swa_utils))
    their_average = theirs_utils.AveragedModel(theirs, **OPTIONS[name](theirs_utils))
    optimizer = fnn.optim.Optimizer(ours, optax.sgd(0.1))
    their_optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    traces = []

    @fnn.jit
    def step(x):
        traces.append(1)
        grads = fnn.grad(lambda net: (net(x) ** 2).mean())(ours)
        optimizer.step(grads)
        average.update_parameters(ours)

    for i in range(4):
        x = normal(5, 3)
        step(jnp.asarray(x))
        their_optimizer.zero_grad()
        (theirs(tensor(x)) ** 2).mean().backward()
        their_optimizer.step()
        their_average.update_parameters(theirs)
        expected = their_average.state_dict()
        state = average.state_dict()
        assert list(state) == list(expected)
        assert state["n_averaged"] == i + 1
        for key, value in expected.items():
            assert_close(state[key], value, 1e-5 if value.is_floating_point() else 0, key)
    assert len(traces) <= 2
    x = normal(5, 3)
    assert_close(average.eval()(jnp.asarray(x)), their_average.eval()(tensor(x)), 1e-5)


def test_an_average_taken_without_compilation_resumes_from_a_state_dict():
    ours, theirs = nets()
    pairs = [swa_utils.AveragedModel(ours), theirs_utils.AveragedModel(theirs)]
    for shift in (0.5, 1.5):
        for net, average in zip((ours, theirs), pairs, strict=True):
            net[0].bias.data.fill_(shift)
            average.update_parameters(net)
    again = fnn.optim.AveragedModel(ours)
    again.load_state_dict(pairs[1].state_dict())
    for net, average in zip((ours, theirs, ours), [*pairs, again], strict=True):
        net[0].bias.data.fill_(4.0)
        average.update_parameters(net)
    for average in (pairs[0], again):
        assert_close(average.module[0].bias.value, pairs[1].module[0].bias, 1e-6)
        assert average.n_averaged == 3


def test_a_list_function_may_return_the_new_values():
    net = nn.Linear(2, 2)
    average = swa_utils.AveragedModel(net, multi_avg_fn=lambda averaged, current, count: [c + 1 for c in current])
    average.update_parameters(net)
    np.testing.assert_array_equal(average.module.weight, net.weight)
    average.update_parameters(net)
    np.testing.assert_array_equal(average.module.weight, net.weight + 1)


def test_the_average_of_16_bits_stays_in_32_where_it_is_kept_there():
    net = nn.Linear(2, 2)
    average = swa_utils.AveragedModel(net)
    net.bfloat16()
    average.update_parameters(net)
    average.update_parameters(net)
    assert average.module.weight.dtype == jnp.float32
    np.testing.assert_array_equal(average.module.weight, net.weight.astype(jnp.float32))


def test_an_average_is_kept_on_a_device_or_with_the_sharding_it_has():
    mesh = jax.make_mesh((1,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    net = nn.Linear(2, 2)
    average = swa_utils.AveragedModel(net, device=jax.devices()[0])
    average.module.to(sharding)
    for _ in range(2):
        average.update_parameters(net)
    assert average.module.weight.sharding.is_equivalent_to(sharding, 2)


@pytest.mark.parametrize("decay", [-0.1, 1.1])
@pytest.mark.parametrize("name", ["get_ema_avg_fn", "get_ema_multi_avg_fn"])
def test_decays_that_torch_refuses(name, decay):
    messages = []
    for utils in (theirs_utils, swa_utils):
        with pytest.raises(ValueError, match="Invalid decay") as raised:
            getattr(utils, name)(decay)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_both_functions_at_once_are_torchs_error():
    for utils, library in ((theirs_utils, torch.nn), (swa_utils, nn)):
        with pytest.raises(AssertionError, match="Only one of"):
            utils.AveragedModel(library.Linear(1, 1), avg_fn=max, multi_avg_fn=max)


@pytest.mark.parametrize("pairs", [False, True], ids=["inputs", "inputs and targets"])
def test_running_statistics_are_computed_anew_as_in_torch(pairs):
    ours, theirs = nets()
    for net in (ours, theirs):
        net.eval()
        net[1].momentum = 0.3
    batches = [normal(4, 3), normal(2, 3), normal(3, 3)]
    swa_utils.update_bn([(jnp.asarray(b), 0) if pairs else jnp.asarray(b) for b in batches], ours, jax.devices()[0])
    theirs_utils.update_bn([(tensor(b), 0) if pairs else tensor(b) for b in batches], theirs, "cpu")
    for name, buffer in theirs.named_buffers():
        assert_close(dict(ours.named_buffers())[name].value, buffer, 1e-5 if buffer.is_floating_point() else 0)
    assert not ours.training
    assert ours[1].momentum == theirs[1].momentum == 0.3


def test_a_model_is_in_its_mode_also_where_a_batch_fails():
    net = nn.Sequential(nn.BatchNorm1d(3)).eval()
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        swa_utils.update_bn([jnp.ones(3)], net)
    assert not net.training
    assert net[0].momentum == 0.1
    swa_utils.update_bn(iter(()), nn.Linear(1, 1))  # no batch is asked for where nothing has statistics
