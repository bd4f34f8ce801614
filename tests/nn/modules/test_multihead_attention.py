"""The layer of multi-head attention agrees with torch's."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_close, assert_layers_agree, assert_refused, normal, tensor, torch

import fnn
import fnn.nn

HIDDEN = np.array([[False, False, True, False], [False, False, False, True]])  # (N, S)


def pair(*args, **options):
    """Layers of fnn and of torch with other biases than the initial ones."""
    theirs = torch.nn.MultiheadAttention(*args, **options)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    return fnn.nn.MultiheadAttention(*args, **options), theirs


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "add_zero_attn": True},
        {"kdim": 3, "vdim": 5},
        {"vdim": 3, "add_bias_kv": True, "bias": False},
        {"add_bias_kv": True, "add_zero_attn": True},
    ],
    ids=str,
)
def test_options(options, batch_first):
    ours, theirs = pair(4, 2, **options, batch_first=batch_first)
    inputs = [normal(3, 2, 4), normal(4, 2, options.get("kdim", 4)), normal(4, 2, options.get("vdim", 4))]
    if batch_first:
        inputs = [x.swapaxes(0, 1) for x in inputs]
    masks = {"key_padding_mask": HIDDEN, "attn_mask": normal(4, 3, 4) > 1}
    assert_layers_agree(ours, theirs, *inputs, tolerance=2e-5, **masks)


@pytest.mark.parametrize("options", [{"need_weights": False}, {"average_attn_weights": False}], ids=str)
def test_options_of_forward(options):
    inputs = normal(3, 4), normal(4, 4), normal(4, 4)
    assert_layers_agree(*pair(4, 2, batch_first=True), *inputs, tolerance=2e-5, **options)


def test_the_causal_hint():
    inputs = [normal(3, 2, 4)] * 3
    mask = np.asarray(fnn.nn.Transformer.generate_square_subsequent_mask(3))
    assert_layers_agree(*pair(4, 2), *inputs, tolerance=2e-5, attn_mask=mask, is_causal=True, need_weights=False)


@pytest.mark.parametrize("options", [{}, {"kdim": 3, "vdim": 5}, {"add_bias_kv": True}], ids=str)
def test_initial_distributions(options):
    fnn.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = fnn.nn.MultiheadAttention(48, 2, **options), torch.nn.MultiheadAttention(48, 2, **options)
    for name, value in ours.state_dict().items():
        other = theirs.state_dict()[name].numpy()
        assert value.shape == other.shape
        np.testing.assert_allclose(value.std(), other.std(), rtol=0.25, err_msg=name)
        if value.size > 1000:
            np.testing.assert_allclose(abs(value).max(), abs(other).max(), rtol=0.02, err_msg=name)


def test_constructor_takes_device_and_dtype():
    device = jax.devices()[0]
    attention = fnn.nn.MultiheadAttention(4, 2, add_bias_kv=True, device=device, dtype=jnp.bfloat16)
    for parameter in attention.parameters():
        assert parameter.value.devices() == {device}
        assert parameter.dtype == jnp.bfloat16


def test_dropout_is_for_training():
    attention, x = fnn.nn.MultiheadAttention(4, 2, dropout=0.5), jnp.asarray(normal(3, 2, 4))
    assert not jnp.array_equal(attention(x, x, x)[0], attention(x, x, x)[0])
    attention.eval()
    np.testing.assert_array_equal(attention(x, x, x)[0], attention(x, x, x)[0])


def test_reset_parameters_is_virtual():
    class Zeros(fnn.nn.MultiheadAttention):
        def _reset_parameters(self):
            fnn.nn.init.zeros_(self.in_proj_weight)

    assert not Zeros(4, 2).in_proj_weight.value.any()


def test_copies_and_pickles_share_nothing():
    attention = fnn.nn.MultiheadAttention(4, 2)
    for copied in (copy.deepcopy(attention), pickle.loads(pickle.dumps(attention))):
        for (name, a), (_, b) in zip(attention.named_parameters(), copied.named_parameters(), strict=True):
            assert a is not b
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_state_of_torch_1_1():
    attention = fnn.nn.MultiheadAttention(4, 2)
    state = {name: value for name, value in vars(attention).items() if name != "_qkv_same_embed_dim"}
    old = fnn.nn.MultiheadAttention.__new__(fnn.nn.MultiheadAttention)
    old.__setstate__(state)
    x = jnp.asarray(normal(3, 2, 4))
    np.testing.assert_array_equal(old(x, x, x)[0], attention(x, x, x)[0])


@pytest.mark.parametrize("mask", [None, "2d", "3d"])
@pytest.mark.parametrize("padding", [None, normal(2, 3)], ids=["", "padding"])
def test_merge_masks(mask, padding):
    ours, theirs = pair(4, 2, batch_first=True)
    x = normal(2, 3, 4)
    masks = [None if mask is None else normal(3, 3) if mask == "2d" else normal(4, 3, 3), padding]
    given, kind = ours.merge_masks(*masks, jnp.asarray(x))
    expected, expected_kind = theirs.merge_masks(*(None if m is None else tensor(m) for m in masks), tensor(x))
    assert kind == expected_kind
    assert (given is None) == (expected is None)
    if expected is not None:
        assert_close(jnp.asarray(given), expected)


@pytest.mark.parametrize(
    ("args", "options", "words"),
    [
        ((5, 2), {}, ["5", "2", "divisible"]),
        ((0, 2), {}, ["greater than 0", "0"]),
        ((4, -1), {}, ["greater than 0", "-1"]),
        ((4, 2), {"kdim": -1}, ["negative", "-1"]),
    ],
    ids=str,
)
def test_constructor_refuses(args, options, words):
    assert_refused(lambda nn, array: nn.MultiheadAttention(*args, **options), *words)


def test_refuses_inputs_of_another_dtype():
    x = normal(3, 2, 4, dtype=np.float16)
    assert_refused(lambda nn, array: nn.MultiheadAttention(4, 2)(array(x), array(x), array(x)), "float16", "float32")


def test_is_where_torch_has_it():
    assert fnn.nn.modules.activation.MultiheadAttention is fnn.nn.MultiheadAttention
