"""Connectionist temporal classification agrees with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, assert_refused, normal, tensor, torch

import fnn.functional as F


def logs(*shape):
    return np.array(jax.nn.log_softmax(normal(*shape), axis=-1))


def check(log_probs, targets, ins, outs, tolerance=2e-5, **options):
    assert_agree(
        lambda x: F.ctc_loss(x, targets, ins, outs, **options),
        lambda x: torch.nn.functional.ctc_loss(
            x, tensor(targets), *(tensor(n) if isinstance(n, np.ndarray) else n for n in (ins, outs)), **options
        ),
        log_probs,
        tolerance=tolerance,
    )


PADDED = np.array([[1, 2, 0], [3, 3, 1]])


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_options(reduction, zero_infinity):
    check(logs(6, 2, 4), PADDED, (6, 5), (2, 3), reduction=reduction, zero_infinity=zero_infinity)


@pytest.mark.parametrize("blank", [0, 2, 3])
def test_blank(blank):
    check(logs(6, 2, 4), np.array([[1, 1, 1], [1, 0, 1]]) + (blank <= 1), (6, 6), (2, 3), blank=blank)


@pytest.mark.parametrize("kind", [list, tuple, np.array])
@pytest.mark.parametrize("targets", [PADDED, np.array([1, 2, 3, 3, 1])], ids=["padded", "concatenated"])
def test_targets_and_lengths(targets, kind):
    check(logs(6, 2, 4), targets, kind([6, 5]), kind([2, 3]), reduction="none")


@pytest.mark.parametrize("lengths", [((6,), (2,)), (np.array(6), np.array(2)), (np.array([5]), np.array([1]))], ids=str)
@pytest.mark.parametrize("ndim", [1, 2])
def test_inputs_without_a_batch_axis(ndim, lengths):
    targets = np.array([1, 2])[: int(lengths[1][0] if np.ndim(lengths[1]) else lengths[1])]
    check(logs(6, 4), targets.reshape((1,) * (ndim - 1) + targets.shape), *lengths, reduction="none")
    check(logs(6, 4), targets, *lengths)


@pytest.mark.parametrize("targets", [PADDED, PADDED[:, :0], PADDED[0, :0]], ids=["padded", "width 0", "concatenated"])
def test_empty_targets_and_inputs(targets):
    check(logs(6, 2, 4), targets, (6, 0), (0, 0), reduction="none")
    check(logs(6, 2, 4), targets, (6, 3), (0, 0))


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_impossible_alignments(zero_infinity):
    targets = np.array([[1, 1], [2, 2], [1, 2]])
    check(logs(3, 3, 3), targets, (2, 3, 0), (2, 1, 1), reduction="none", zero_infinity=zero_infinity)


def test_the_gradient_of_what_is_not_normalized():
    check(normal(4, 2, 4), PADDED, (4, 4), (2, 3), reduction="none")


def test_padding_may_be_anything():
    check(logs(6, 2, 4), np.array([[1, -1, 99], [3, 3, 1]]), (6, 6), (1, 3))


def test_labels_may_be_blank():
    check(logs(6, 2, 4), np.array([[0, 0, 1], [1, 0, 1]]), (6, 6), (3, 3), reduction="none")


def test_probabilities_of_0_have_no_nan_in_their_gradient():
    x = logs(4, 1, 3)
    x[0, 0, 2] = x[1, 0, 1] = -np.inf
    loss, gradient = jax.value_and_grad(lambda x: F.ctc_loss(x, np.array([[1, 2]]), (4,), (2,)))(x)
    expected = torch.nn.functional.ctc_loss(tensor(x), torch.tensor([[1, 2]]), (4,), (2,))
    assert_close(loss, expected)
    assert jnp.isfinite(gradient).all()
    assert gradient[0, 0, 2] == gradient[1, 0, 1] == 0


def test_nan():
    x = logs(4, 2, 4)
    x[0, 0, 0] = np.nan
    check(x, PADDED, (4, 4), (2, 3), reduction="none")


def test_16_bits():
    x = jnp.asarray(logs(6, 2, 4), jnp.bfloat16)
    loss = F.ctc_loss(x, PADDED, (6, 5), (2, 3))
    assert loss.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(loss), F.ctc_loss(x.astype(np.float32), PADDED, (6, 5), (2, 3)), rtol=1e-2)


@settings(max_examples=8)
@given(st.data())
def test_any_lengths(data):
    batch, most = 3, 4
    ins = data.draw(st.lists(st.integers(0, 6), min_size=batch, max_size=batch))
    outs = data.draw(st.lists(st.integers(0, most), min_size=batch, max_size=batch))
    targets = np.array(
        data.draw(st.lists(st.lists(st.integers(0, 3), min_size=most, max_size=most), min_size=batch, max_size=batch))
    )
    blank, concatenated = data.draw(st.integers(0, 3)), data.draw(st.booleans())
    if concatenated:
        targets = np.concatenate([row[:n] for row, n in zip(targets, outs, strict=True)])
    x = logs(6, batch, 4)
    expected = torch.nn.functional.ctc_loss(tensor(x), tensor(targets), ins, outs, blank, "none")
    assert_close(F.ctc_loss(x, targets, ins, outs, blank, "none"), expected, 2e-5)


@pytest.mark.parametrize("targets", [PADDED, np.array([1, 2, 3, 3, 1])], ids=["padded", "concatenated"])
def test_lengths_and_targets_may_be_traced(targets):
    x, ins, outs = logs(6, 2, 4), np.array([6, 5]), np.array([2, 3])
    loss = jax.jit(lambda *operands: F.ctc_loss(*operands, reduction="none"))
    np.testing.assert_allclose(loss(x, targets, ins, outs), F.ctc_loss(x, targets, ins, outs, reduction="none"), rtol=1e-6)
    assert jnp.isnan(loss(x, targets, ins + 2, outs)).any()
    assert jnp.isnan(loss(x, targets, ins, outs + 2)).any()
    assert jnp.isnan(loss(x, targets + 3, ins, outs)).any()
    assert jnp.isnan(loss(x, targets - 2, ins, outs)).any()


def test_derivatives_of_any_order_and_batches():
    def loss(x):
        return jnp.sin(F.ctc_loss(x, PADDED, (6, 5), (2, 3)))

    @jax.jit
    def both(x, v):
        reverse_over_forward = jax.grad(lambda x: jax.jvp(loss, (x,), (v,))[1])(x)
        forward_over_reverse = jax.jvp(jax.grad(loss), (x,), (v,))[1]
        reverse_over_reverse = jax.grad(lambda x: (jax.grad(loss)(x) * v).sum())(x)
        reverses = jnp.stack([reverse_over_forward, reverse_over_reverse])
        return reverses, forward_over_reverse, jax.vmap(jax.grad(loss))(x[None])[0], jax.grad(loss)(x)

    reverses, other, batched, plain = both(normal(6, 2, 4), normal(6, 2, 4))
    for one in reverses:
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(batched, plain, rtol=1e-4, atol=1e-5)


X = logs(5, 2, 4)


@pytest.mark.parametrize(
    ("log_probs", "targets", "ins", "outs", "options", "words"),
    [
        (X, PADDED, (6, 5), (2, 3), {}, ["0 to 5", "6"]),
        (X, PADDED, (5, -1), (2, 3), {}, ["0 to 5", "-1"]),
        (X, PADDED, (5, 5), (2, 4), {}, ["0 to 3", "4"]),
        (X, PADDED, (5, 5), (2, -1), {}, ["0 to 3", "-1"]),
        (X, PADDED, (5,), (2, 3), {}, ["batch_size", "[1]"]),
        (X, PADDED, (5, 5), (2,), {}, ["batch_size", "[1]"]),
        (X, PADDED, (5.0, 5.0), (2, 3), {}, ["input_lengths", "5.0"]),
        (X, PADDED, np.array([5.0, 5]), np.array([2, 3]), {}, ["integral", "float32"]),
        (X, PADDED, np.array([5, 5]), (2, 3), {}, ["both"]),
        (X[:, 0], PADDED[0], 5, 3, {}, ["input_lengths", "5"]),
        (X, PADDED[:1], (5, 5), (2, 3), {}, ["2", "[1, 3]"]),
        (X, PADDED[..., None], (5, 5), (2, 3), {}, ["[2, 3, 1]"]),
        (X, np.array([1, 2, 3, 3]), (5, 5), (2, 3), {}, ["5", "4"]),
        (X, np.array([1, 2, 3, 3, 1, 1]), (5, 5), (2, 3), {}, ["5", "6"]),
        (X, PADDED, (5, 5), (2, 3), {"blank": 4}, ["0 to 3", "4"]),
        (X, PADDED, (5, 5), (2, 3), {"blank": -1}, ["0 to 3", "-1"]),
        (X, PADDED, (5, 5), (2, 3), {"reduction": "max"}, ["max"]),
        (X[..., None], PADDED, (5, 5), (2, 3), {}, ["[5, 2, 4, 1]"]),
        (X[:0], PADDED, (0, 0), (2, 3), {}, ["[0, 2, 4]"]),
        (np.ones((5, 2, 4), int), PADDED, (5, 5), (2, 3), {}, ["int32"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_refuses(log_probs, targets, ins, outs, options, words):
    def call(nn, array):
        lengths = (array(n) if isinstance(n, np.ndarray) else n for n in (ins, outs))
        nn.functional.ctc_loss(array(log_probs), array(targets), *lengths, **options)

    assert_refused(call, *words)


def test_refuses_labels_out_of_range():
    with pytest.raises(RuntimeError, match="0 to 3, got 0 to 4"):
        F.ctc_loss(X, PADDED + (PADDED == 3), (5, 5), (2, 3))
