"""The older place of functional_call, with torch's as the oracle."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_close, assert_refused, normal, tensor, torch

import fnn
import fnn.nn as nn
from fnn.nn.utils import stateless

WEIGHT, X = normal(2, 3), normal(4, 3)
LAYER = torch.nn.BatchNorm1d(3)
VALUES = {"weight": normal(3), "running_mean": normal(3)}


def call(lib, module, values, make, *args, **options):
    with pytest.warns(FutureWarning, match="deprecated"):
        return lib.utils.stateless.functional_call(
            module, {name: make(value) for name, value in values.items()}, *args, **options
        )


@pytest.mark.parametrize(
    ("args", "options"),
    [((X,), {}), (((X,),), {}), ((None, {"input": X}), {}), ((X,), {"tie_weights": False})],
    ids=["an array", "a tuple", "keywords", "untied"],
)
def test_calls_are_torchs(args, options):
    ours = nn.BatchNorm1d(3).eval()
    theirs = torch.nn.BatchNorm1d(3).eval()
    expected = call(torch.nn, theirs, VALUES, tensor, *jax.tree.map(tensor, args), **options)
    assert_close(call(nn, ours, VALUES, jnp.asarray, *jax.tree.map(jnp.asarray, args), **options), expected)
    np.testing.assert_array_equal(ours.weight, np.ones(3))


def test_originals_of_parametrized_weights_are_names():
    values = {"parametrizations.weight.original0": normal(2, 1), "parametrizations.weight.original1": WEIGHT}
    given = [(nn, jnp.asarray), (torch.nn, tensor)]
    layers = [lib.utils.parametrizations.weight_norm(lib.Linear(3, 2, bias=False)) for lib, _ in given]
    ours, theirs = (call(lib, layer, values, make, make(X)) for layer, (lib, make) in zip(layers, given, strict=True))
    assert_close(ours, theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = jax.jit(jax.grad(lambda values: stateless.functional_call(layers[0], values, X).sum()))
        gradients = run({name: jnp.asarray(value) for name, value in values.items()})
    weight = lambda g, v: g * v / jnp.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
    expected = jax.grad(lambda g, v: (X @ weight(g, v).T).sum(), (0, 1))(*values.values())
    for gradient, other in zip(gradients.values(), expected, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda lib, t: lib.utils.stateless.functional_call(lib.Linear(3, 2), {"weight": t(WEIGHT)}, t(X), strict=True),
        lambda lib, t: lib.utils.stateless.functional_call(lib.DataParallel(lib.Linear(3, 2)), {}, t(X)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_mistakes_are_those_of_torch(mistake):
    assert_refused(mistake)


def test_what_forward_writes_is_put_into_the_dict():
    net, values = nn.BatchNorm1d(3), {"running_mean": jnp.zeros(3), "num_batches_tracked": jnp.array(0)}
    with pytest.warns(FutureWarning):
        stateless.functional_call(net, values, X)
    np.testing.assert_allclose(values["running_mean"], 0.1 * X.mean(0), rtol=1e-5)
    assert values["num_batches_tracked"] == 1
    assert net.num_batches_tracked.item() == 0
    assert fnn.functional_call(net.eval(), values, X).shape == X.shape
