"""Recurrent layers and cells agree with torch's."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracle import assert_agree, assert_close, assert_refused, assert_same_face, normal, tensor, torch

import fnn
import fnn.nn
from fnn.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence
from fnn.tree import nest, unnest

NAMES = ["RNN", "LSTM", "GRU"]
packing = torch.nn.utils.rnn


def pair(name, *args, **options):
    """Layers of fnn and of torch with the same parameters."""
    theirs = getattr(torch.nn, name)(*args, **options)
    ours = getattr(fnn.nn, name)(*args, **options)
    assert_same_face(ours, theirs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def flat(outputs):
    """The arrays in nested outputs, the batch sizes and indices of what is packed left out."""
    if isinstance(outputs, (PackedSequence, packing.PackedSequence)):
        return [outputs.data]
    return [leaf for part in outputs for leaf in flat(part)] if isinstance(outputs, (tuple, list)) else [outputs]


def states_of(layer, *batch):
    """Random initial states."""
    leading = (layer.num_layers * (2 if layer.bidirectional else 1), *batch)
    sizes = [layer.proj_size or layer.hidden_size, layer.hidden_size][: 2 if layer.mode == "LSTM" else 1]
    return [normal(*leading, size) for size in sizes]


def check(ours, theirs, x, states=(), pack=None, tolerance=None):
    """Asserts that two layers agree in outputs, last states, and the gradients of all of input, states and parameters.

    Args:
        ours, theirs: the layers.
        x: the input.
        states: the initial ones, or none.
        pack: where the input is to be packed, the lengths, and whether they are sorted.
        tolerance: relative.
    """
    params, _ = fnn.split(ours)
    _, apply = fnn.pure(ours)
    names = [name for name, _ in theirs.named_parameters()]
    several = "LSTM" in type(theirs).__name__

    def arguments(module, x, *states):
        x = x if pack is None else module.nn.utils.rnn.pack_padded_sequence(x, pack[0], theirs.batch_first, pack[1])
        return (x, tuple(states) if several else states[0]) if states else (x,)

    def split(operands):
        return dict(zip(names, operands, strict=False)), operands[len(names) :]

    def run(*operands):
        values, given = split(operands)
        return flat(apply(nest(values), *arguments(fnn, *given), training=True, rng=0))

    def run_theirs(*operands):
        values, given = split(operands)
        return flat(torch.func.functional_call(theirs, values, arguments(torch, *given)))

    values = unnest(params)
    assert_agree(run, run_theirs, *(np.asarray(values[name]) for name in names), x, *states, tolerance=tolerance)
    stateful = flat(ours(*arguments(fnn, jnp.asarray(x), *map(jnp.asarray, states))))
    for one, other in zip(stateful, flat(theirs(*arguments(torch, tensor(x), *map(tensor, states)))), strict=True):
        assert_close(one, other, tolerance, "stateful output")


OPTIONS = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2, "bidirectional": True}),
    ("LSTM", {}),
    ("LSTM", {"num_layers": 3, "bias": False}),
    ("LSTM", {"bidirectional": True, "num_layers": 2, "proj_size": 2}),
    ("LSTM", {"proj_size": 3, "bias": False, "batch_first": True}),
    ("GRU", {}),
    ("GRU", {"num_layers": 2, "bidirectional": True, "bias": False, "batch_first": True}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_options(name, options):
    ours, theirs = pair(name, 3, 4, **options)
    x = normal(2, 5, 3)
    states = states_of(theirs, 2 if theirs.batch_first else 5) if options else ()
    check(ours, theirs, x, states, tolerance=1e-4)


@st.composite
def configurations(draw):
    """The name and options of a layer; lengths, whether they are sorted, the padded length; whether states are given."""
    name, hidden = draw(st.sampled_from(NAMES)), draw(st.integers(2, 4))
    options = {"num_layers": draw(st.integers(1, 2))}
    options |= {key: draw(st.booleans()) for key in ("bias", "batch_first", "bidirectional")}
    if name == "LSTM":
        options["proj_size"] = draw(st.integers(0, hidden - 1))
    lengths, is_sorted = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)), draw(st.booleans())
    lengths = sorted(lengths, reverse=True) if is_sorted else lengths
    return name, hidden, options, lengths, is_sorted, max(lengths) + draw(st.integers(0, 2)), draw(st.booleans())


@settings(max_examples=6)
@given(configurations())
def test_packed_input_agrees_for_any_lengths(configuration):
    name, hidden, options, lengths, is_sorted, time, with_states = configuration
    ours, theirs = pair(name, 3, hidden, **options)
    batch = len(lengths)
    x = normal(*((batch, time) if theirs.batch_first else (time, batch)), 3)
    states = states_of(theirs, batch) if with_states else ()
    check(ours, theirs, x, states, (torch.tensor(lengths), is_sorted), tolerance=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_lengths_may_be_traced(name):
    ours, theirs = pair(name, 3, 4, 2, bidirectional=True)
    x, states, lengths = normal(5, 3, 3), states_of(theirs, 3), np.array([2, 5, 3])

    def run(layer, module, x, lengths, states):
        packed = module.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        output, last = layer(packed, tuple(states) if name == "LSTM" else states[0])
        return flat((module.nn.utils.rnn.pad_packed_sequence(output)[0], last))

    outputs = jax.jit(lambda *args: run(ours, fnn, *args))(x, lengths, states)
    expected = run(theirs, torch, tensor(x), tensor(lengths), list(map(tensor, states)))
    for one, other in zip(outputs, expected, strict=True):
        assert_close(one, other, 1e-4)
    several = jax.jit(jax.vmap(lambda x, lengths: run(ours, fnn, x, lengths, list(map(jnp.asarray, states))), (None, 0)))
    outputs = several(x, np.stack([lengths, [1, 1, 4]]))
    for one, other in zip(outputs, expected, strict=True):
        assert_close(one[0], other, 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_sequence_goes_through_jit(name):
    ours, theirs = pair(name, 3, 4)
    parts = [normal(2, 3), normal(4, 3)]
    packed = pack_sequence(list(map(jnp.asarray, parts)), enforce_sorted=False)
    output, _ = fnn.jit(lambda packed: ours(packed))(packed)
    expected, _ = theirs(packing.pack_sequence(list(map(tensor, parts)), enforce_sorted=False))
    for field in expected._fields:
        assert_close(getattr(output, field), getattr(expected, field), 1e-4, field)


def test_states_of_a_batch_of_another_size_than_that_of_traced_batch_sizes_give_nan():
    ours, _ = pair("GRU", 3, 4)
    packed = pack_sequence([jnp.ones((2, 3)), jnp.ones((1, 3))])

    @jax.jit
    def run(data, sizes, h):
        return ours(PackedSequence(data, sizes), h)

    assert jnp.isfinite(run(packed.data, packed.batch_sizes, jnp.zeros((1, 2, 4)))[1]).all()
    assert jnp.isnan(run(packed.data, packed.batch_sizes, jnp.zeros((1, 3, 4)))[1]).all()
    with pytest.raises(ValueError, match="_replace"):
        jax.jit(lambda data, sizes: ours(PackedSequence(data, sizes)))(packed.data, packed.batch_sizes)


def test_unpacked_elements_behind_the_end_touch_nothing():
    layer, _ = pair("LSTM", 3, 4, bidirectional=True)
    x = normal(5, 2, 3)
    other = x.copy()
    other[3:, 1] = np.nan

    def run(x):
        output, states = layer(pack_padded_sequence(x, [5, 3]))
        return flat((pad_packed_sequence(output)[0], states))

    for one, another in zip(run(x), run(other), strict=True):
        np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_input_without_a_batch(name, batch_first):
    ours, theirs = pair(name, 3, 4, 2, batch_first=batch_first)
    check(ours, theirs, normal(5, 3), () if batch_first else states_of(theirs), tolerance=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_empty_batch(name):
    ours, theirs = pair(name, 3, 4)
    check(ours, theirs, normal(5, 0, 3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_half_precision(name, dtype):
    ours, theirs = pair(name, 3, 4, 2)
    ours.to(dtype)
    theirs.to(torch.bfloat16 if dtype == jnp.bfloat16 else torch.float16)
    x = normal(5, 2, 3, dtype=dtype)
    output, _ = ours(jnp.asarray(x))
    expected, _ = theirs(tensor(x))
    assert_close(output, expected, 3e-2 if dtype == jnp.bfloat16 else 4e-3)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_spreads_as_in_torch(name):
    ours, theirs = pair(name, 3, 4, bidirectional=True)
    for value in (np.nan, np.inf, -np.inf):
        x = normal(5, 2, 3)
        x[2, 1, 0] = value
        assert_close(ours(x)[0], theirs(tensor(x))[0], 1e-4)


# Dropout


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_between_layers_and_in_training(name):
    ours, theirs = pair(name, 3, 4, 2, dropout=1.0)
    x = normal(5, 2, 3)
    for training in (True, False):
        for one, other in zip(flat(ours.train(training)(x)), flat(theirs.train(training)(tensor(x))), strict=True):
            assert_close(one, other, 1e-4)


def test_dropout_draws_at_each_call():
    x, layer = normal(5, 2, 3), fnn.nn.RNN(3, 4, 2, dropout=0.5)
    assert (layer(x)[0] != layer(x)[0]).any()
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0], layer(x)[0])


@pytest.mark.parametrize("name", NAMES)
def test_dropout_after_the_only_layer_warns(name):
    for nn in (torch.nn, fnn.nn):
        with pytest.warns(UserWarning, match="dropout=0.5 and num_layers=1"):
            layer = getattr(nn, name)(3, 4, dropout=0.5)
    x = normal(5, 2, 3)
    np.testing.assert_array_equal(layer(x)[0], layer(x)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(fnn.nn, name)(3, 4, 2, dropout=0.5)


# Parameters


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_weights_are_listed_as_in_torch(name, options):
    ours, theirs = pair(name, 3, 4, **options)
    assert ours._flat_weights_names == theirs._flat_weights_names
    assert [[w.shape for w in group] for group in ours.all_weights] == [[w.shape for w in g] for g in theirs.all_weights]
    assert all(w is getattr(ours, name) for w, name in zip(ours._flat_weights, ours._flat_weights_names, strict=True))
    assert ours.flatten_parameters() is None


@pytest.mark.parametrize("name", [*NAMES, "RNNCell", "LSTMCell", "GRUCell"])
def test_initial_parameters_are_uniform(name):
    layer = getattr(fnn.nn, name)(30, 100)
    for parameter in layer.parameters():
        assert abs(np.asarray(parameter)).max() <= 0.1
        assert np.asarray(parameter).std() == pytest.approx(0.1 / 3**0.5, rel=0.1)


def test_what_takes_the_place_of_a_parameter_is_used():
    ours, theirs = pair("GRU", 3, 4)
    x = normal(5, 2, 3)
    for layer, array in ((ours, jnp.asarray), (theirs, tensor)):
        weight = array(np.asarray(layer.weight_hh_l0.detach()) * 2)
        del layer.weight_hh_l0
        layer.weight_hh_l0 = weight
    assert_close(ours(x)[0], theirs(tensor(x))[0], 1e-4)
    ours, theirs = pair("RNN", 4, 4, 2)
    for layer in (ours, theirs):
        layer.weight_hh_l1 = layer.weight_hh_l0
    check(ours, theirs, normal(5, 2, 4), tolerance=1e-4)


@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_parameters_have_the_dtype_and_device_asked_for(name):
    layer = getattr(fnn.nn, name)(3, 4, device="cpu", dtype=jnp.bfloat16)
    assert {p.dtype.name for p in layer.parameters()} == {"bfloat16"}


# Sharding


@pytest.mark.parametrize(("name", "with_states"), [("RNN", False), ("LSTM", False), ("LSTM", True), ("GRU", True)])
def test_a_batch_is_sharded(name, with_states):
    layer, theirs = pair(name, 3, 4)
    params, _ = fnn.split(layer)
    _, apply = fnn.pure(layer)
    x = jnp.asarray(normal(5, 4, 3))
    states = [jnp.asarray(state) for state in states_of(theirs, 4)] if with_states else []

    def loss(params, x, states):
        given = () if not states else (tuple(states),) if name == "LSTM" else states
        return sum(jnp.sin(y).sum() for y in flat(apply(params, x, *given)))

    gradients = jax.grad(loss, argnums=(0, 1, 2))
    expected = jax.jit(gradients)(params, x, states)
    auto = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    batched = [P(None, "data") for _ in states]
    specs = (P(), P(None, "data"), batched)
    mapped = jax.jit(jax.shard_map(gradients, mesh=auto, in_specs=specs, out_specs=specs))(params, x, states)
    explicit = jax.make_mesh((1,), ("data",))
    with jax.set_mesh(explicit):
        placed = jax.device_put(x, NamedSharding(explicit, P(None, "data")))
        sharded = jax.jit(gradients)(params, placed, states)
    for ours in (mapped, sharded):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, expected)


# What is refused


def each(*names):
    return pytest.mark.parametrize("name", names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_size": 0}, ["input_size", "greater than zero", "0"]),
        ({"input_size": 3.0}, ["input_size", "int", "float"]),
        ({"hidden_size": -1}, ["hidden_size", "greater than zero", "-1"]),
        ({"hidden_size": 4.0}, ["hidden_size", "int", "float"]),
        ({"num_layers": 0}, ["num_layers", "greater than zero"]),
        ({"num_layers": 1.0}, []),
        ({"bias": 1}, ["bias", "bool", "int"]),
        ({"batch_first": 0}, ["batch_first", "bool", "int"]),
        ({"dropout": 1.5}, ["[0, 1]", "1.5"]),
        ({"dropout": True}, ["[0, 1]", "True"]),
        ({"dropout": "a"}, ["a"]),
        ({"dropout": None}, []),
        ({"proj_size": -1}, ["proj_size"]),
        ({"proj_size": 4}, ["proj_size"]),
        ({"nothing": 4}, ["nothing"]),
    ],
    ids=str,
)
@each(*NAMES)
def test_constructors_refuse(name, options, words):
    assert_refused(lambda nn, _: getattr(nn, name)(**({"input_size": 3, "hidden_size": 4} | options)), *words)


def test_constructors_refuse_names():
    assert_refused(lambda nn, _: nn.RNN(3, 4, 1, "sigmoid"), "sigmoid", "'tanh' or 'relu'")
    assert_refused(lambda nn, _: nn.RNNBase("CNN", 3, 4), "CNN")
    assert_refused(lambda nn, array: nn.RNNBase("GRU", 3, 4)(array(normal(5, 2, 3))), "forward")
    assert_refused(lambda nn, array: nn.RNNCell(3, 4, nonlinearity="sigmoid")(array(normal(2, 3))), "sigmoid")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3,), ["2D or 3D", "1D", "[3]"]),
        ((1, 5, 2, 3), ["2D or 3D", "4D", "[1, 5, 2, 3]"]),
        ((5, 2, 4), ["Expected 3, got 4", "[5, 2, 4]"]),
        ((0, 2, 3), ["sequence length", "larger than 0"]),
    ],
    ids=str,
)
@each(*NAMES)
def test_layers_refuse_inputs(name, shape, words):
    assert_refused(lambda nn, array: getattr(nn, name)(3, 4)(array(normal(*shape))), *words)


@pytest.mark.parametrize(
    ("given", "shape", "words"),
    [
        ((5, 2, 3), (1, 4), ["3-D", "[1, 4]"]),
        ((5, 3), (1, 2, 4), ["2-D", "[1, 2, 4]"]),
        ((5, 2, 3), (2, 2, 4), ["(1, 2, 4)", "[2, 2, 4]"]),
        ((5, 2, 3), (1, 3, 4), ["(1, 2, 4)", "[1, 3, 4]"]),
        ((5, 2, 3), (1, 2, 5), ["(1, 2, 4)", "[1, 2, 5]"]),
        ((5, 3), (2, 4), ["(1, 1, 4)", "[2, 1, 4]"]),
    ],
    ids=str,
)
@each(*NAMES)
def test_layers_refuse_states(name, given, shape, words):
    def call(nn, array):
        state = array(normal(*shape))
        return getattr(nn, name)(3, 4)(array(normal(*given)), (state, state) if name == "LSTM" else state)

    assert_refused(call, *words)


@each("RNN", "GRU")
def test_layers_refuse_states_of_another_batch_than_that_of_packed_input(name):
    def call(nn, array):
        packed = nn.utils.rnn.pack_sequence([array(normal(2, 3)), array(normal(1, 3))])
        return getattr(nn, name)(3, 4)(packed, array(normal(1, 3, 4)))

    assert_refused(call, "(1, 2, 4)", "[1, 3, 4]")


def test_lstm_refuses_states():
    x, h, c = normal(5, 2, 3), normal(1, 2, 2), normal(1, 2, 4)
    assert_refused(lambda nn, array: nn.LSTM(3, 4, proj_size=2)(array(x), (array(c), array(c))), "hidden[0]", "(1, 2, 2)")
    assert_refused(lambda nn, array: nn.LSTM(3, 4, proj_size=2)(array(x), (array(h), array(h))), "hidden[1]", "(1, 2, 4)")
    assert_refused(lambda nn, array: nn.LSTM(3, 4)(array(x), (array(c),) * 3), "two hidden states", "3")
    assert_refused(lambda nn, array: nn.LSTM(3, 4)(array(x), 3), "int")
    with pytest.raises(TypeError, match="tuple of arrays"):
        fnn.nn.LSTM(3, 4)(x, c)
    with pytest.raises(TypeError, match="must be an array, not tuple"):
        fnn.nn.GRU(3, 4)(x, (c,))


@each(*NAMES)
def test_layers_refuse_other_dtypes(name):
    with jax.enable_x64(True):
        assert_refused(
            lambda nn, array: getattr(nn, name)(3, 4)(array(normal(5, 2, 3).astype(np.float64))), "float64", "float32"
        )
        assert_refused(lambda nn, array: getattr(nn, name)(3, 4)(array(np.ones((5, 2, 3), int))), "int64", "float32")

        def call(nn, array):
            state = array(normal(1, 2, 4).astype(np.float64))
            return getattr(nn, name)(3, 4)(array(normal(5, 2, 3)), (state, state) if name == "LSTM" else state)

        assert_refused(call, *([] if name == "LSTM" else ["dtype"]))


# Cells

CELLS = [
    ("RNNCell", {}),
    ("RNNCell", {"nonlinearity": "relu"}),
    ("LSTMCell", {}),
    ("GRUCell", {}),
    ("GRUCell", {"bias": False}),
]


@pytest.mark.parametrize(("name", "options"), CELLS, ids=str)
def test_cells(name, options):
    ours, theirs = pair(name, 3, 4, **options)
    count = 2 if name == "LSTMCell" else 1
    for batch, with_states in (((2,), True), ((0,), True), ((), False)):
        states = [normal(*batch, 4) for _ in range(count)] if with_states else ()
        check(ours, theirs, normal(*batch, 3), states, tolerance=1e-4)


@pytest.mark.parametrize(
    ("given", "shape", "words"),
    [
        ((2, 4), (2, 4), ["got 4 expected 3", "[2, 4]"]),
        ((2, 3), (2, 5), ["got 5, expected 4", "[2, 5]"]),
        ((2, 3), (3, 4), ["[2, 3]", "[3, 4]"]),
        ((2, 3), (4,), ["[2, 3]", "[4]"]),
        ((3,), (1, 4), ["got 1", "expected 4"]),
        ((1, 2, 3), (2, 4), ["input", "1D or 2D", "3D"]),
        ((2, 3), (1, 2, 4), ["1D or 2D", "3D"]),
    ],
    ids=str,
)
@each("RNNCell", "LSTMCell", "GRUCell")
def test_cells_refuse(name, given, shape, words):
    def call(nn, array):
        state = array(normal(*shape))
        return getattr(nn, name)(3, 4)(array(normal(*given)), (state, state) if name == "LSTMCell" else state)

    assert_refused(call, *words)


def test_lstm_cell_refuses_other_states():
    x, h = normal(2, 3), normal(2, 4)
    assert_refused(lambda nn, array: nn.LSTMCell(3, 4)(array(x), (array(h),)), "two hidden states")
    assert_refused(lambda nn, array: nn.LSTMCell(3, 4)(array(x), array(h)), "tuple")
    assert_refused(
        lambda nn, array: nn.LSTMCell(3, 4)(array(x), (array(h), array(normal(2, 5)))), "hidden1", "got 5, expected 4"
    )
