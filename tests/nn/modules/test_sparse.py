"""Look-up tables agree with torch's."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_close, assert_layers_agree, assert_refused, assert_same_face, integers, normal, tensor, torch

import fnn
import fnn.nn


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_idx": 2},
        {"padding_idx": -1},
        {"scale_grad_by_freq": True},
        {"norm_type": 1.0, "sparse": True, "padding_idx": 0},
    ],
    ids=str,
)
def test_agrees(options):
    theirs = torch.nn.Embedding(5, 3, **options)
    theirs.sparse = False  # torch would give a sparse gradient
    ours = fnn.nn.Embedding(5, 3, **options)
    assert repr(ours) == repr(torch.nn.Embedding(5, 3, **options))
    ours.sparse = False
    assert_layers_agree(ours, theirs, integers(5, 2, 4))


def test_max_norm_changes_the_weight_in_place():
    theirs = torch.nn.Embedding(5, 3, max_norm=0.5, norm_type=1.0)
    ours = fnn.nn.Embedding(5, 3, max_norm=0.5, norm_type=1.0)
    assert repr(ours) == repr(theirs)
    ours.load_state_dict(theirs.state_dict())
    index = np.array([1, 1, 3])
    _, grads = fnn.value_and_grad(lambda layer: jnp.square(layer(index)).sum())(ours)
    theirs(tensor(index)).square().sum().backward()
    assert_close(ours.weight.value, theirs.weight)
    assert_close(grads["weight"], theirs.weight.grad)


@pytest.mark.parametrize("layer", [fnn.nn.Embedding, fnn.nn.EmbeddingBag])
def test_the_padding_row_starts_at_zero(layer):
    weight = layer(5, 3, padding_idx=-2).weight
    assert weight.any(axis=1).tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("freeze", [True, False])
def test_from_pretrained(freeze):
    table, options = normal(5, 3), {"freeze": freeze, "padding_idx": 1, "scale_grad_by_freq": True}
    theirs = torch.nn.Embedding.from_pretrained(tensor(table), **options)
    for given in (table, jnp.asarray(table), tensor(table), fnn.nn.Parameter(table)):
        ours = fnn.nn.Embedding.from_pretrained(given, **options)
        assert repr(ours) == repr(theirs)
        assert ours.weight.requires_grad == theirs.weight.requires_grad
        assert_close(ours.weight.value, theirs.weight)


@pytest.mark.parametrize("freeze", [True, False])
def test_bag_from_pretrained(freeze):
    table, options = normal(5, 3), {"freeze": freeze, "padding_idx": 1, "mode": "sum", "include_last_offset": True}
    ours, theirs = (
        nn.EmbeddingBag.from_pretrained(array(table), **options) for nn, array in ((fnn.nn, jnp.asarray), (torch.nn, tensor))
    )
    assert_same_face(ours, theirs)
    assert ours.weight.requires_grad == theirs.weight.requires_grad
    assert_close(ours.weight.value, theirs.weight)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "sum", "padding_idx": -1},
        {"mode": "max", "norm_type": 1.0, "include_last_offset": True},
        {"max_norm": 2.0, "norm_type": 3.0, "scale_grad_by_freq": True},
    ],
    ids=str,
)
def test_bags_agree(options):
    ours, theirs = (nn.EmbeddingBag(5, 3, **options) for nn in (fnn.nn, torch.nn))
    inputs = integers(5, 6), np.array([0, 2, 6])
    if "max_norm" in options:
        assert_same_face(ours, theirs)
        ours.load_state_dict(theirs.state_dict())
        assert_close(ours(*inputs), theirs(*map(tensor, inputs)))
        assert_close(ours.weight.value, theirs.weight)
    else:
        assert_layers_agree(ours, theirs, *inputs)


def test_from_pretrained_keeps_integers_and_subclasses():
    class Table(fnn.nn.Embedding):
        pass

    layer = Table.from_pretrained(np.array([[1, 2], [3, 4]]))
    assert type(layer) is Table
    assert layer(np.array([1])).tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda nn, array: nn.Embedding(5, 3, padding_idx=5), ["within num_embeddings", "5"]),
        (lambda nn, array: nn.Embedding(5, 3, padding_idx=-6), ["within num_embeddings", "-6"]),
        (lambda nn, array: nn.Embedding(5, 3, _weight=array(normal(5, 2))), ["(5, 2)", "(5, 3)"]),
        (lambda nn, array: nn.Embedding.from_pretrained(array(normal(5))), ["2-dimensional", "(5,)"]),
        (lambda nn, array: nn.Embedding(5, 3)(array([5])), ["from 5 to 5", "5 rows"]),
        (lambda nn, array: nn.Embedding(-1, 3), ["negative dimension", "-1"]),
        (lambda nn, array: nn.EmbeddingBag(5, 3, padding_idx=5), ["within num_embeddings", "5"]),
        (lambda nn, array: nn.EmbeddingBag(5, 3, _weight=array(normal(5, 2))), ["(5, 2)", "(5, 3)"]),
        (lambda nn, array: nn.EmbeddingBag.from_pretrained(array(normal(5))), ["2-dimensional", "(5,)"]),
        (lambda nn, array: nn.EmbeddingBag(5, 3)(array([[5]])), ["from 5 to 5", "5 rows"]),
    ],
)
def test_refuses(call, words):
    assert_refused(call, *words)
