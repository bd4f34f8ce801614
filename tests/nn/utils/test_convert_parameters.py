"""Parameters as a vector, and modules without initial values; with torch's as the oracle."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_close, assert_refused, normal, torch

import fnn
import fnn.nn as nn
from fnn.nn import utils


@pytest.fixture
def nets():
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2, bias=False))
    ours = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def test_there_and_back(nets):
    ours, theirs = nets
    vector = utils.parameters_to_vector(ours.parameters())
    assert_close(vector, torch.nn.utils.parameters_to_vector(theirs.parameters()))
    for extra in (0, 3):
        new = normal(vector.size + extra)
        utils.vector_to_parameters(jnp.asarray(new), ours.parameters())
        torch.nn.utils.vector_to_parameters(torch.tensor(new), theirs.parameters())
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert_close(mine, other)


def test_dtypes_promote_and_are_taken_over(nets):
    ours, theirs = nets
    mixed = [normal(2), normal(3, dtype=jnp.bfloat16)]
    assert utils.parameters_to_vector([nn.Parameter(a) for a in mixed]).dtype == jnp.float32
    utils.vector_to_parameters(jnp.arange(12, dtype=jnp.bfloat16), ours.parameters())
    torch.nn.utils.vector_to_parameters(torch.arange(12, dtype=torch.bfloat16), theirs.parameters())
    assert_close(ours[0].weight, theirs[0].weight)


def test_in_a_compiled_and_differentiated_function(nets):
    ours, _ = nets
    gradient = fnn.jit(fnn.grad(lambda net: (utils.parameters_to_vector(net.parameters()) ** 2).sum()))(ours)
    np.testing.assert_allclose(gradient["0"]["bias"], 2 * ours[0].bias.value)
    fnn.jit(lambda v: utils.vector_to_parameters(v, ours.parameters()))(jnp.arange(12.0))
    assert ours[1].weight.tolist() == [[8.0, 9.0], [10.0, 11.0]]


@pytest.mark.parametrize(
    "mistake",
    [
        lambda lib, t: lib.utils.parameters_to_vector([]),
        lambda lib, t: lib.utils.vector_to_parameters([1.0], [lib.Parameter(t(normal(1)))]),
        lambda lib, t: lib.utils.vector_to_parameters(t(normal(1)), [lib.Parameter(t(normal(2)))]),
        lambda lib, t: lib.utils.skip_init(lib.ReLU),
        lambda lib, t: lib.utils.skip_init(int, 1),
        lambda lib, t: lib.utils.skip_init(lib.Linear),
    ],
)
def test_mistakes_are_those_of_torch(mistake):
    assert_refused(mistake)


def test_a_vector_that_is_too_short_changes_nothing(nets):
    ours, _ = nets
    before = ours.state_dict()
    with pytest.raises(RuntimeError, match=r"12 elements, .* \[8\]"):
        utils.vector_to_parameters(jnp.zeros(8), ours.parameters())
    with pytest.raises(TypeError, match="Parameters"):
        utils.vector_to_parameters(jnp.zeros(2), [jnp.zeros(2)])
    for key, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_skip_init_makes_the_module_and_draws_nothing():
    ours, theirs = (lib.utils.skip_init(lib.Linear, 3, out_features=2, bias=False) for lib in (nn, torch.nn))
    assert repr(ours) == repr(theirs)
    assert ours.weight._value is None
    ours.load_state_dict({"weight": normal(2, 3)})


@pytest.mark.parametrize("name", [name for name in utils.__all__ if inspect.isfunction(getattr(torch.nn.utils, name, None))])
def test_signatures_are_torchs(name):
    ours, theirs = (inspect.signature(getattr(lib.utils, name)).parameters.values() for lib in (nn, torch.nn))
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]
    assert set(torch.nn.utils.__all__) <= set(utils.__all__)


@pytest.mark.parametrize("module", ["parametrize", "parametrizations", "stateless"])
def test_signatures_of_submodules_are_torchs(module):
    ours, theirs = getattr(nn.utils, module), getattr(torch.nn.utils, module)
    assert sorted(ours.__all__) == sorted(theirs.__all__)
    for name in theirs.__all__:
        signatures = [inspect.signature(getattr(lib, name)).parameters.values() for lib in (ours, theirs)]
        mine, other = ([(p.name, p.default, p.kind) for p in signature] for signature in signatures)
        assert mine == other, name
