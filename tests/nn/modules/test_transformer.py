"""The Transformer, its stacks and layers agree with torch's."""

import copy
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_close, assert_layers_agree, assert_refused, normal, tensor, torch

import fnn
import fnn.nn
from fnn.nn.modules import transformer

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")

S, T, N, E = 4, 3, 2, 4
SMALL = {"dim_feedforward": 5, "dropout": 0.0}
HIDDEN = {n: normal(N, n) > 1 for n in (S, T)}
CAUSAL = {n: np.asarray(fnn.nn.Transformer.generate_square_subsequent_mask(n)) for n in (S, T)}
ENCODER = {"src_mask": CAUSAL[S], "src_key_padding_mask": np.zeros((N, S), np.float32)}
DECODER = {"tgt_mask": CAUSAL[T], "memory_mask": normal(T, S) > 1, "memory_key_padding_mask": HIDDEN[S]}


def pair(make):
    """Layers of fnn and of torch, with other parameters than the initial ones."""
    theirs = make(torch.nn)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return make(fnn.nn), theirs


def agree(make, *lengths, batch_first=False, batched=True, **options):
    shapes = [((N, n) if batch_first else (n, N)) if batched else (n,) for n in lengths]
    assert_layers_agree(*pair(make), *(normal(*shape, E) for shape in shapes), tolerance=1e-4, **options)


@pytest.mark.parametrize(
    ("name", "norm_first", "batch_first"),
    [("Encoder", False, True), ("Encoder", True, False), ("Decoder", False, False), ("Decoder", True, True)],
)
def test_layers(name, norm_first, batch_first):
    options = SMALL | {"batch_first": batch_first, "norm_first": norm_first, "bias": not norm_first}
    lengths, masks = ((S,), ENCODER) if name == "Encoder" else ((T, S), DECODER)
    agree(lambda nn: getattr(nn, f"Transformer{name}Layer")(E, 2, **options), *lengths, batch_first=batch_first, **masks)


@pytest.mark.parametrize("name", ["Encoder", "Decoder"])
def test_layers_take_inputs_without_a_batch_axis(name):
    options = SMALL | {"activation": "gelu", "layer_norm_eps": 0.1, "batch_first": True}
    lengths, padding = ((S,), "src") if name == "Encoder" else ((T, S), "memory")
    masks = {f"{padding}_key_padding_mask": HIDDEN[S][0]}
    agree(lambda nn: getattr(nn, f"Transformer{name}Layer")(E, 2, **options), *lengths, batched=False, **masks)


def test_layers_take_a_module_as_activation():
    agree(lambda nn: nn.TransformerEncoderLayer(E, 2, **SMALL, activation=nn.ELU()), S)
    agree(lambda nn: nn.TransformerDecoderLayer(E, 2, **SMALL, activation=nn.ELU()), T, S)


def test_stacks():
    def encoder(nn):
        layer = nn.TransformerEncoderLayer(E, 2, **SMALL, batch_first=True)
        return nn.TransformerEncoder(layer, 2, nn.LayerNorm(E)).eval()

    def decoder(nn):
        return nn.TransformerDecoder(nn.TransformerDecoderLayer(E, 2, **SMALL), 2).eval()

    # HIDDEN is not what torch's nested tensors take, and parameters require gradients
    agree(encoder, S, batch_first=True, mask=CAUSAL[S] == -np.inf, src_key_padding_mask=HIDDEN[S])
    agree(decoder, T, S, **DECODER)


def test_stacks_of_a_decoder_layer_with_a_module_use_relu_as_torch():
    def make(nn):
        return nn.TransformerDecoder(nn.TransformerDecoderLayer(E, 2, **SMALL, activation=nn.ELU()), 1)

    ours, theirs = pair(make)
    ours.load_state_dict(theirs.state_dict())
    tgt, memory = normal(T, N, E), normal(S, N, E)
    with pytest.warns(UserWarning, match="relu"):
        make(fnn.nn)
    assert repr(ours) == repr(theirs)
    assert_close(ours(jnp.asarray(tgt), jnp.asarray(memory)), theirs(tensor(tgt), tensor(memory)), 1e-4)


def test_transformer():
    options = SMALL | {"batch_first": True, "norm_first": True}
    masks = DECODER | {"src_mask": CAUSAL[S], "tgt_key_padding_mask": np.zeros((N, T), np.float32)}
    agree(lambda nn: nn.Transformer(E, 2, 1, 1, **options), S, T, batch_first=True, **masks)


def test_transformer_takes_its_own_encoder_and_decoder():
    class Plain:
        """What both are, in either library."""

        def __new__(cls, nn):
            class Own(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.linear = nn.Linear(E, E)

                def forward(self, x, memory=None, **masks):
                    return self.linear(x) if memory is None else self.linear(x) + memory[:1]

            return Own()

    agree(lambda nn: nn.Transformer(E, 2, custom_encoder=Plain(nn), custom_decoder=Plain(nn)), S, T)


def test_layers_of_a_stack_start_alike_and_share_nothing():
    for drawn in (False, True):
        layer = fnn.nn.TransformerEncoderLayer(E, 2, **SMALL)
        if drawn:
            fnn.split(layer)
        first, second = fnn.nn.TransformerEncoder(layer, 2).layers
        for (name, a), (_, b), (_, c) in zip(*(m.named_parameters() for m in (first, second, layer)), strict=True):
            assert len({id(a), id(b), id(c)}) == 3
            np.testing.assert_array_equal(a, b, err_msg=name)
            np.testing.assert_array_equal(a, c, err_msg=name)
        first.linear1.weight.data.zero_()
        assert second.linear1.weight.value.any()
        first.eval()
        assert second.training


def test_functions_of_jax_are_not_copied():
    encoder = fnn.nn.TransformerEncoder(fnn.nn.TransformerEncoderLayer(E, 2, activation=jax.nn.silu), 2)
    assert encoder.layers[0].activation is encoder.layers[1].activation is jax.nn.silu


def test_layers_of_a_transformer_start_with_different_matrices():
    fnn.manual_seed(0)
    layers = fnn.nn.Transformer(32, 2, 2, 1, 48).encoder.layers
    for name, weight in layers[0].named_parameters():
        other = (
            layers[1].get_parameter(name) if hasattr(layers[1], "get_parameter") else dict(layers[1].named_parameters())[name]
        )
        assert (weight.ndim == 1) == bool((weight.value == other.value).all()), name
        if weight.ndim == 2:
            np.testing.assert_allclose(abs(weight.value).max(), (6 / sum(weight.shape)) ** 0.5, rtol=0.02)


def test_constructor_takes_device_and_dtype():
    device = jax.devices()[0]
    for parameter in fnn.nn.Transformer(E, 2, 1, 1, 5, device=device, dtype=jnp.bfloat16).parameters():
        assert parameter.value.devices() == {device}
        assert parameter.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {},
        {"batch_first": True, "norm_first": True},
        {"batch_first": True, "bias": False},
        {"batch_first": True, "nhead": 1},
        {"batch_first": True, "activation": np.tanh},
    ],
    ids=str,
)
@pytest.mark.parametrize("enabled", [True, False])
def test_warns_that_there_is_no_nested_tensor_where_torch_does(options, enabled):
    found = []
    for nn in (torch.nn, fnn.nn):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            layer = nn.TransformerEncoderLayer(E, **({"nhead": 2} | options))
            encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=enabled)
        reasons = [str(w.message).split("(use")[0] for w in caught]
        found.append((reasons, encoder.enable_nested_tensor, encoder.use_nested_tensor, encoder.mask_check))
    assert found[0] == found[1]


def test_masks_of_different_dtypes_are_deprecated():
    masks = {"key_padding_mask": HIDDEN[S], "mask": CAUSAL[S]}
    layer = fnn.nn.TransformerEncoderLayer(E, 2, **SMALL)
    for module, name in ((layer, "src_mask"), (fnn.nn.TransformerEncoder(layer, 1), "mask")):
        options = {"src_key_padding_mask": masks["key_padding_mask"], name: masks["mask"]}
        with pytest.warns(UserWarning, match=f"mismatched src_key_padding_mask and {name} is deprecated"):
            module(jnp.asarray(normal(S, N, E)), **options)


@pytest.mark.parametrize("dtype", [None, "float16", "bool"])
def test_generate_square_subsequent_mask(dtype):
    kinds = (None, None) if dtype is None else (jnp.dtype(dtype), getattr(torch, dtype))
    ours = fnn.nn.Transformer.generate_square_subsequent_mask(S, dtype=kinds[0])
    assert_close(ours, torch.nn.Transformer.generate_square_subsequent_mask(S, dtype=kinds[1]))


DETECT = [
    (CAUSAL[S], None, None),
    (CAUSAL[S] == -np.inf, None, None),
    (CAUSAL[S].T, None, None),
    (CAUSAL[S], None, T),
    (CAUSAL[S], False, None),
    (CAUSAL[S].T, True, None),
    (np.stack([CAUSAL[S]] * 2), None, S),
    (None, None, None),
    (None, True, None),
    (normal(S, T), None, None),
]


@pytest.mark.parametrize("case", DETECT, ids=range(len(DETECT)))
def test_detects_causal_masks(case):
    mask, *rest = case
    expected = torch.nn.modules.transformer._detect_is_causal_mask(None if mask is None else tensor(mask), *rest)
    assert transformer._detect_is_causal_mask(None if mask is None else jnp.asarray(mask), *rest) is expected


def test_a_causal_mask_is_detected_under_jit_where_it_is_no_argument():
    seen = []

    class Layer(fnn.nn.TransformerEncoderLayer):
        def _sa_block(self, x, attn_mask, key_padding_mask, is_causal=False):
            seen.append(is_causal)
            return super()._sa_block(x, attn_mask, key_padding_mask, is_causal)

    encoder = fnn.nn.TransformerEncoder(Layer(E, 2, **SMALL), 1)
    x = jnp.asarray(normal(S, N, E))
    inside = fnn.jit(lambda x: encoder(x, encoder_mask()))(x)
    as_argument = fnn.jit(encoder)(x, encoder_mask())
    assert seen == [True, False]
    assert_close(inside, as_argument)


def encoder_mask():
    return fnn.nn.Transformer.generate_square_subsequent_mask(S)


def test_blocks_are_virtual():
    class Layer(fnn.nn.TransformerDecoderLayer):
        def _sa_block(self, *args):
            return 0.0

        _mha_block = _ff_block = _sa_block

    x = jnp.asarray(normal(T, N, E))
    np.testing.assert_array_equal(Layer(E, 2, norm_first=True)(x, x), x)


def test_dropout_is_for_training_and_drawn_anew_in_each_layer():
    x, model = jnp.asarray(normal(S, N, E)), fnn.nn.Transformer(E, 2, 2, 2, 5, dropout=0.5)
    assert not jnp.array_equal(model(x, x), model(x, x))
    masks = []
    for layer in model.encoder.layers:
        layer.dropout1.register_forward_hook(lambda module, args, out: masks.append(out == 0))
    model(x, x)
    assert not jnp.array_equal(*masks)
    model.eval()
    np.testing.assert_array_equal(model(x, x), model(x, x))


def test_copies_and_pickles():
    model, x = fnn.nn.Transformer(E, 2, 1, 1, **SMALL), jnp.asarray(normal(S, N, E))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(copied(x, x), model(x, x))


REFUSED = [
    (lambda nn, x: nn.TransformerEncoderLayer(E, 2, activation="tanh"), ["relu/gelu", "tanh"]),
    (lambda nn, x: nn.TransformerDecoderLayer(E, 3), ["4", "3", "divisible"]),
    (lambda nn, x: nn.TransformerEncoderLayer(E, 2, dropout=1.5), ["1.5"]),
    (lambda nn, x: nn.TransformerEncoderLayer(E, 2)(x(S, N, E), is_causal=True), ["attn_mask", "is_causal"]),
    (lambda nn, x: nn.TransformerEncoderLayer(E, 2)(x(S, N, E), x(S, T)), ["(4, 4)", "(4, 3)"]),
    (lambda nn, x: nn.TransformerEncoderLayer(E, 2)(x(S, N, E + 1)), ["4", "5"]),
    (lambda nn, x: nn.TransformerDecoderLayer(E, 2)(x(T, N, E), x(S, N + 1, E)), ["(3, 2, 4)", "(4, 3, 4)"]),
    (lambda nn, x: nn.TransformerDecoderLayer(E, 2)(x(T, N, E), x(S, E)), ["3-D", "(4, 4)"]),
    (lambda nn, x: nn.Transformer(E, 2, 1, 1)(x(S, N, E), x(T, N + 1, E)), ["(4, 2, 4)", "(3, 3, 4)"]),
    (lambda nn, x: nn.Transformer(E, 2, 1, 1, batch_first=True)(x(N, S, E), x(T, S, E)), ["(2, 4, 4)", "(3, 4, 4)"]),
    (lambda nn, x: nn.Transformer(E, 2, 1, 1)(x(S, N, E), x(T, N, E - 1)), ["d_model 4", "(3, 2, 3)"]),
    (lambda nn, x: nn.TransformerDecoder(nn.TransformerDecoderLayer(E, 2), 0)(x(T, N, E), x(S, N, E)), []),
    (lambda nn, x: nn.Transformer.generate_square_subsequent_mask(-1), ["-1"]),
    (lambda nn, x: nn.Transformer.generate_square_subsequent_mask(1.5), ["1.5"]),
]


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=range(len(REFUSED)))
def test_refuses(call, words):
    assert_refused(lambda nn, array: call(nn, lambda *shape: array(normal(*shape))), *words)


def test_refuses_masks_of_integers():
    mask = np.ones((T, T), np.int32)
    assert_refused(lambda nn, array: nn.TransformerEncoderLayer(E, 2)(array(normal(T, N, E)), array(mask)), "int32")
    make = lambda nn: nn.TransformerDecoder(nn.TransformerDecoderLayer(E, 2), 1)  # noqa: E731
    assert_refused(lambda nn, array: make(nn)(*[array(normal(T, N, E))] * 2, array(mask)), "int32")
