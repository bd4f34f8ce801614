"""The adaptive softmax agrees with torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_close, assert_refused, integers, normal, tensor, torch

import fnn
import fnn.nn
from fnn.tree import nest


def pair(*args, **options):
    """Layers of fnn and of torch with the same weights."""
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(*args, **options)
    ours = fnn.nn.AdaptiveLogSoftmaxWithLoss(*args, **options)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name in ("in_features", "n_classes", "cutoffs", "div_value", "head_bias", "shortlist_size", "n_clusters", "head_size"):
        assert getattr(ours, name) == getattr(theirs, name)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("shape", [(6,), (9,), ()], ids=str)
@pytest.mark.parametrize("options", [{}, {"div_value": 2.0, "head_bias": True}], ids=str)
def test_output_loss_and_gradients(options, shape):
    ours, theirs = pair(8, 12, [3, 7], **options)
    names = [name for name, _ in theirs.named_parameters()]
    _, apply = fnn.pure(ours)
    target = integers(12, *shape)
    assert_agree(
        lambda x, *values: tuple(apply(nest(dict(zip(names, values, strict=True))), x, target)),
        lambda x, *values: tuple(
            torch.func.functional_call(theirs, dict(zip(names, values, strict=True)), (x, tensor(target)))
        ),
        normal(*shape, 8),
        *(parameter.detach().numpy() for parameter in theirs.parameters()),
        tolerance=2e-5,
    )


def test_probabilities_and_predictions():
    ours, theirs = pair(8, 12, [3, 7], div_value=2.0)
    x = normal(20, 8) * 5
    assert_close(ours.log_prob(x), theirs.log_prob(tensor(x)))
    assert_close(ours.predict(x), theirs.predict(tensor(x)))
    np.testing.assert_allclose(jnp.exp(ours.log_prob(x)).sum(1), 1, rtol=1e-5)


def test_the_result_has_names():
    ours, _ = pair(8, 12, [3])
    result = ours(normal(2, 8), np.array([1, 5]))
    assert result._fields == ("output", "loss")
    assert -result.output.mean() == result.loss


def test_an_index_out_of_range_gives_nan_while_tracing():
    ours, _ = pair(8, 12, [3, 7])
    _, apply = fnn.pure(ours)
    params, _ = fnn.split(ours)
    output = jax.jit(lambda t: apply(params, jnp.ones((3, 8)), t).output)(jnp.array([11, 12, -1]))
    assert jnp.isnan(output).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((8, 12, []), ["larger than 0"]),
        ((8, 12, [7, 3]), ["[7, 3]"]),
        ((8, 12, [3, 3]), ["[3, 3]"]),
        ((8, 12, [0, 3]), ["[0, 3]"]),
        ((8, 12, [3, 12]), ["12"]),
        ((8, 12, [3.5]), ["3.5"]),
    ],
    ids=str,
)
def test_refuses_cutoffs(args, words):
    assert_refused(lambda nn, array: nn.AdaptiveLogSoftmaxWithLoss(*args), *words)


@pytest.mark.parametrize(
    ("input", "target", "words"),
    [
        (normal(3, 8), np.array([1, 2, 12]), ["[0, 11]", "12"]),
        (normal(3, 8), np.array([1, 2, -1]), ["[0, 11]", "-1"]),
        (normal(3, 8), np.array([1, 2]), ["[3, 8]", "[2]"]),
        (normal(8), np.array([1] * 8), ["2D", "[8]"]),
        (normal(3, 8), np.array(1), ["1D", "[3, 8]"]),
        (normal(3, 8), np.ones((3, 1), int), ["[3, 1]"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_refuses(input, target, words):
    assert_refused(lambda nn, array: nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3])(array(input), array(target)), *words)
