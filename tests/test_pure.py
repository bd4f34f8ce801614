"""The functional face: init, apply, and the bridge between values and modules."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import fnn
import fnn.nn as nn

X = jnp.arange(12.0).reshape(4, 3) / 7 - 0.3


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(3, 5)
        self.norm = nn.BatchNorm1d(5)
        self.dropout = nn.Dropout(0.5)
        self.out = nn.Linear(5, 2)
        self.sizes = [1.0]

    def forward(self, x):
        return self.out(self.dropout(jnp.tanh(self.norm(self.hidden(x))))) * self.sizes[0]

    def encode(self, x):
        return self.hidden(x)


@pytest.fixture
def net():
    fnn.manual_seed(0)
    return Net()


def by_hand(params, state, x, mask=None):
    """The network of this file, in plain JAX; in training where there is a mask."""
    h = x @ params["hidden"]["weight"].T + params["hidden"]["bias"]
    mean, var = (h.mean(0), h.var(0)) if mask is not None else (state["norm"]["running_mean"], state["norm"]["running_var"])
    h = jnp.tanh((h - mean) / jnp.sqrt(var + 1e-5) * params["norm"]["weight"] + params["norm"]["bias"])
    h = h if mask is None else jnp.where(mask, h / 0.5, 0)
    return h @ params["out"]["weight"].T + params["out"]["bias"]


def test_trees_mirror_the_module(net):
    params, state = fnn.pure(net).init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {
        "hidden": {"weight": (5, 3), "bias": (5,)},
        "norm": {"weight": (5,), "bias": (5,)},
        "out": {"weight": (2, 5), "bias": (2,)},
    }
    assert jax.tree.map(jnp.shape, state) == {"norm": {"running_mean": (5,), "running_var": (5,), "num_batches_tracked": ()}}
    assert jax.tree.structure(fnn.split(net)) == jax.tree.structure((params, state))


def test_evaluation_and_training_are_those_written_by_hand(net):
    init, apply = fnn.pure(net)
    params, state = init(jax.random.key(1))
    key = jax.random.key(2)
    y, same = apply(params, X, state=state)
    np.testing.assert_allclose(y, by_hand(params, state, X), rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    y, new = apply(params, X, state=state, rng=key, training=True)
    mask = jax.random.bernoulli(jax.random.fold_in(key, 0), 0.5, (4, 5))
    np.testing.assert_allclose(y, by_hand(params, state, X, mask), rtol=1e-5, atol=1e-5)
    h = X @ params["hidden"]["weight"].T + params["hidden"]["bias"]
    np.testing.assert_allclose(new["norm"]["running_mean"], 0.1 * h.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["norm"]["running_var"], 0.9 + 0.1 * h.var(0, ddof=1), rtol=1e-5)
    assert new["norm"]["num_batches_tracked"] == 1
    np.testing.assert_array_equal(net.norm.running_mean, np.zeros(5))


def test_init_depends_on_the_key_alone(net):
    init, _ = fnn.pure(net)
    first = init(jax.random.key(3))
    net.hidden.weight.data.fill_(9.0)
    nn.init.ones_(net.out.weight)
    fnn.manual_seed(99)
    net(X)
    again = init(3)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (init(jax.random.key(4))[0]["hidden"]["weight"] != first[0]["hidden"]["weight"]).any()


def test_init_under_jit_with_output_shardings(net):
    init, _ = fnn.pure(net)
    mesh = jax.make_mesh((1,), ("data",))
    params, state = jax.jit(init, out_shardings=NamedSharding(mesh, P()))(jax.random.key(3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), (params, state), init(jax.random.key(3)))
    assert params["hidden"]["weight"].sharding == NamedSharding(mesh, P())


def test_a_large_model_is_instant_and_takes_no_memory():
    before = sum(array.nbytes for array in jax.live_arrays())
    start = time.process_time()
    width = 4096
    blocks = [
        nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        for _ in range(52)
    ]
    net = nn.Sequential(*blocks)
    built = time.process_time() - start
    assert sum(p.numel() for p in net.parameters()) > 6.9e9
    start = time.process_time()
    params, _ = jax.eval_shape(fnn.pure(net).init, jax.random.key(0))
    shaped = time.process_time() - start
    assert params["51"]["3"]["weight"].shape == (width, 4 * width)
    assert sum(array.nbytes for array in jax.live_arrays()) < before + 1e6
    assert built < 1
    assert shaped < 2


def change_mode(net):
    net.eval()


def change_structure(net):
    net.out = nn.Linear(5, 7)


def change_hyperparameters(net):
    net.dropout.p = 0.1
    net.norm.eps = 1.0
    net.sizes[0] = 3.0


def change_values(net):
    net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()})


def freeze(net):
    net.requires_grad_(False)


def add_hook(net):
    net.hidden.register_forward_hook(lambda module, args, out: 3 * out)


CHANGES = [change_mode, change_structure, change_hyperparameters, change_values, freeze, add_hook]


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_done_to_the_module_changes_apply(net, change):
    init, apply = fnn.pure(net)
    params, state = init(jax.random.key(0))

    def jaxpr():
        training = lambda p, s, k, x: apply(p, x, state=s, rng=k, training=True)  # noqa: E731
        evaluation = lambda p, s, x: apply(p, x, state=s)  # noqa: E731
        return str(jax.make_jaxpr(training)(params, state, jax.random.key(1), X)) + str(
            jax.make_jaxpr(evaluation)(params, state, X)
        )

    before, values = jaxpr(), init(jax.random.key(5))
    change(net)
    assert jaxpr() == before
    jax.tree.map(np.testing.assert_array_equal, init(jax.random.key(5)), values)


def test_a_method_bound_to_a_child_in_an_attribute_is_in_the_picture(net):
    net.encoders = {"first": net.encode, "lists": [net.hidden]}
    init, apply = fnn.pure(net)
    params, state = init(jax.random.key(0))
    assert apply(params, X, state=state, method="encode")[0].shape == (4, 5)
    net.hidden.register_forward_hook(lambda module, args, out: 0 * out)

    def through_attributes(self, x):
        return self.encoders["first"](x), self.encoders["lists"][0](x)

    first, second = apply(params, X, state=state, method=through_attributes)[0]
    np.testing.assert_array_equal(first, second)
    assert (first != 0).any()


def test_transformations(net):
    init, apply = fnn.pure(net.eval())
    params, state = init(jax.random.key(0))
    loss = lambda p, x: (apply(p, x, state=state)[0] ** 2).mean()  # noqa: E731
    hand = lambda p, x: (by_hand(p, state, x) ** 2).mean()  # noqa: E731
    close = lambda a, b: jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), a, b)  # noqa: E731
    close(jax.jit(loss)(params, X), hand(params, X))
    close(jax.grad(loss)(params, X), jax.grad(hand)(params, X))
    close(jax.vmap(loss, (None, 0))(params, X[:, None]), jax.vmap(hand, (None, 0))(params, X[:, None]))
    many = jax.vmap(lambda k: init(k)[0])(jax.random.split(jax.random.key(1), 3))
    close(jax.vmap(loss, (0, None))(many, X), jax.vmap(hand, (0, None))(many, X))
    close(jax.hessian(loss)(params, X), jax.hessian(hand)(params, X))
    close(jax.grad(jax.checkpoint(loss))(params, X), jax.grad(hand)(params, X))
    close(jax.jvp(lambda p: loss(p, X), (params,), (params,)), jax.jvp(lambda p: hand(p, X), (params,), (params,)))
    close(jax.vmap(jax.grad(loss), (None, 0))(params, X[:, None]), jax.vmap(jax.grad(hand), (None, 0))(params, X[:, None]))
    shape = jax.eval_shape(lambda k: apply(init(k)[0], X, state=init(k)[1])[0], jax.random.key(0))
    assert shape.shape == (4, 2)
    step = lambda p, x: (jax.tree.map(lambda p, g: p - 0.1 * g, p, jax.grad(loss)(p, x)), loss(p, x))  # noqa: E731
    by = lambda p, x: (jax.tree.map(lambda p, g: p - 0.1 * g, p, jax.grad(hand)(p, x)), hand(p, x))  # noqa: E731
    close(jax.lax.scan(step, params, jnp.stack([X, X + 1])), jax.lax.scan(by, params, jnp.stack([X, X + 1])))


@pytest.mark.parametrize("explicit", [False, True], ids=["auto", "explicit"])
def test_shard_map_and_sharded_arrays(net, explicit):
    init, apply = fnn.pure(net.eval())
    params, state = init(jax.random.key(0))
    kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))
    run = jax.shard_map(lambda p, s, x: apply(p, x, state=s)[0], mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=P("data"))
    placed = jax.device_put(X, NamedSharding(mesh, P("data")))
    np.testing.assert_allclose(jax.jit(run)(params, state, placed), by_hand(params, state, X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        jax.jit(lambda p, s, x: apply(p, x, state=s)[0])(params, state, placed), by_hand(params, state, X), rtol=1e-5, atol=1e-6
    )


def test_export_for_every_platform(net):
    init, apply = fnn.pure(net)
    params, state = init(jax.random.key(0))

    def step(params, state, key, x):
        def loss(params):
            y, new = apply(params, x, state=state, rng=key, training=True)
            return (y**2).mean(), new

        return jax.value_and_grad(loss, has_aux=True)(params)

    data = jax.random.key_data(jax.random.key(0))
    function = jax.jit(lambda p, s, k, x: step(p, s, jax.random.wrap_key_data(k), x))
    exported = jax.export.export(function, platforms=["cpu", "cuda", "tpu"])(params, state, data, X)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        exported.call(params, state, data, X),
        function(params, state, data, X),
    )


def test_a_frozen_batch_norm_stays_frozen_in_training(net):
    net.norm.eval()
    init, apply = fnn.pure(net)
    params, state = init(jax.random.key(0))
    _, new = apply(params, X, state=state, rng=jax.random.key(0), training=True)
    jax.tree.map(np.testing.assert_array_equal, new, state)


def test_a_frozen_parameter_is_state_and_accepted_in_either_tree(net):
    net.hidden.requires_grad_(False)
    init, apply = fnn.pure(net.eval())
    params, state = init(jax.random.key(0))
    assert "hidden" not in params
    assert set(state["hidden"]) == {"weight", "bias"}
    expected, _ = apply(params, X, state=state)
    hidden = state.pop("hidden")
    y, new = apply({**params, "hidden": hidden}, X, state=state)
    np.testing.assert_array_equal(y, expected)
    assert "hidden" not in new


def test_hooks_run_in_apply(net):
    net.eval().out.register_forward_hook(lambda module, args, out: out + 1)
    init, apply = fnn.pure(net)
    params, state = init(jax.random.key(0))
    np.testing.assert_allclose(apply(params, X, state=state)[0], by_hand(params, state, X) + 1, rtol=1e-5, atol=1e-6)


def test_apply_within_a_stateful_computation_keeps_to_its_own_values(net):
    init, apply = fnn.pure(net.eval())
    params, state = init(jax.random.key(8))

    @fnn.jit
    def both(x):
        return net(x), apply(params, x, state=state)[0]

    stateful, functional = both(X)
    np.testing.assert_allclose(stateful, by_hand(*fnn.split(net), X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(functional, by_hand(params, state, X), rtol=1e-5, atol=1e-6)


def test_rng_around_a_stateful_call_draws_what_apply_draws(net):
    init, apply = fnn.pure(net)
    params, state = init(jax.random.key(0))
    fnn.update(net, params, state)
    key = jax.random.key(11)
    expected, _ = apply(params, X, state=state, rng=key, training=True)
    with fnn.rng(key):
        np.testing.assert_allclose(net(X), expected, rtol=1e-6)
    fnn.update(net, params, state)

    @fnn.jit
    def run(key, x):
        with fnn.rng(key):
            return net(x)

    np.testing.assert_allclose(run(key, X), expected, rtol=1e-5, atol=1e-6)


def test_bound_holds_given_values_and_leaves_the_module_alone(net):
    params, state = fnn.pure(net).init(jax.random.key(5))
    original = net.hidden.weight.value
    with fnn.bound(net.eval(), params, state):
        np.testing.assert_allclose(net(X), by_hand(params, state, X), rtol=1e-5, atol=1e-6)
        net.train()
        net(X)
        _, inside = fnn.split(net)
    assert inside["norm"]["num_batches_tracked"] == 1
    assert net.norm.num_batches_tracked.item() == 0
    np.testing.assert_array_equal(net.hidden.weight, original)


def test_bound_takes_traced_values(net):
    net.eval()
    params, state = fnn.split(net)

    def loss(params):
        with fnn.bound(net, params):
            return (net(X) ** 2).mean()

    expected = jax.grad(lambda p: (by_hand(p, state, X) ** 2).mean())(params)
    for transform in (lambda f: f, jax.jit):
        grads = transform(jax.grad(loss))(params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads, expected)


def test_update_writes_all_or_nothing(net):
    params, state = fnn.pure(net).init(jax.random.key(6))
    before = net.state_dict()
    wrong = {**params, "out": {"weight": jnp.zeros((7, 5)), "bias": params["out"]["bias"]}}
    with pytest.raises(ValueError, match=r"out\.weight: expected shape \(2, 5\), got \(7, 5\)"):
        fnn.update(net, wrong, state)
    with pytest.raises(KeyError, match=r"missing \['hidden\.weight', 'hidden\.bias'\]"):
        fnn.update(net, {name: value for name, value in params.items() if name != "hidden"})
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    fnn.update(net, params, state)
    jax.tree.map(np.testing.assert_array_equal, fnn.split(net), (params, state))


def test_functional_call_as_in_torch():
    torch = pytest.importorskip("torch")

    def build(lib):
        class Tied(lib.Module):
            def __init__(self):
                super().__init__()
                self.a = lib.Linear(3, 3)
                self.b = lib.Linear(3, 3)
                self.b.weight = self.a.weight
                self.norm = lib.BatchNorm1d(3)

            def forward(self, x):
                return self.norm(self.b(self.a(x)))

        return Tied()

    theirs = build(torch.nn)
    ours = build(nn)
    ours.load_state_dict(theirs.state_dict())
    x = torch.tensor(np.asarray(X))
    values = {"b.weight": np.full((3, 3), 0.5, np.float32), "norm.running_mean": np.zeros(3, np.float32)}
    given = {name: torch.tensor(value) for name, value in values.items()}
    mine = {name: jnp.asarray(value) for name, value in values.items()}
    expected = torch.func.functional_call(theirs, given, (x,))
    np.testing.assert_allclose(fnn.functional_call(ours, mine, (X,)), expected.detach().numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mine["norm.running_mean"], given["norm.running_mean"].numpy(), rtol=1e-5)
    np.testing.assert_allclose(ours.norm.running_var, theirs.norm.running_var.numpy(), rtol=1e-5)
    for strict_error in ({"a.weight": mine["b.weight"]}, {**mine, "nothing": X}):
        with pytest.raises(RuntimeError, match="key"):
            fnn.functional_call(ours, strict_error, X, strict=True)
    with pytest.raises(ValueError, match="different values"):
        fnn.functional_call(ours, {"a.weight": jnp.zeros((3, 3)), "b.weight": jnp.ones((3, 3))}, X)
    jitted = jax.jit(lambda w, x: fnn.functional_call(ours.eval(), {"a.weight": w}, x))
    w = jnp.full((3, 3), 0.25)
    np.testing.assert_allclose(jitted(w, X), fnn.functional_call(ours.eval(), {"a.weight": w}, X), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a, p, s: a(p, X), fnn.StateError, r"'norm\.running_mean'.*pass state="),
        (lambda a, p, s: a(p, X, state=s, training=True), fnn.StateError, "no key: pass rng=key"),
        (lambda a, p, s: a(p["hidden"], X, state=s), KeyError, r"missing: 'hidden\.weight'.*unexpected: 'weight'"),
        (lambda a, p, s: a(p, X, state={}), KeyError, r"missing: 'norm\.running_mean'"),
        (lambda a, p, s: a({**p, **s}, X, state=s), KeyError, "unexpected"),
        (lambda a, p, s: a([1], X), TypeError, "nested dict of arrays"),
        (lambda a, p, s: a(p, X, state=s, method="nothing"), AttributeError, "nothing"),
    ],
)
def test_clear_errors_of_apply(net, call, error, message):
    init, apply = fnn.pure(net)
    with pytest.raises(error, match=message):
        call(apply, *init(jax.random.key(0)))


def test_a_parameter_written_in_apply_is_an_error():
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            self.linear.weight.value = self.linear.weight * 2
            return self.linear(x)

    init, apply = fnn.pure(Writing())
    with pytest.raises(fnn.StateError, match=r"Parameter 'weight' of Linear was written.*apply returns only state"):
        apply(*init(0)[:1], X)


def test_pure_takes_a_module():
    with pytest.raises(TypeError, match="takes a Module, got function"):
        fnn.pure(lambda x: x)


def test_state_comes_out_of_an_eager_apply_whose_forward_stages_code():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            return fnn.checkpoint(self.norm)(x)

    init, apply = fnn.pure(Net())
    params, state = init(0)
    _, state = apply(params, jnp.arange(6.0).reshape(3, 2), state=state, training=True)
    assert state["norm"]["num_batches_tracked"] == 1
