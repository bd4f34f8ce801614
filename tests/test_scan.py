"""A scanned stack of layers is the loop over them: the same results, draws, gradients and state."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
import fnn.functional as F
from fnn import nn
from fnn.scan import DEEP


class Block(nn.Module):
    def __init__(self, width=6, rate=0.3):
        super().__init__()
        self.first = nn.Linear(width, 2 * width)
        self.drop = nn.Dropout(rate)
        self.second = nn.Linear(2 * width, width, bias=False)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x, scale=1.0):
        return x + scale * self.norm(self.second(self.drop(F.gelu(self.first(x)))))


class Stack(nn.Module):
    """Blocks between two layers, scanned or in a loop."""

    def __init__(self, depth=3, scan=True):
        super().__init__()
        self.head = nn.Linear(4, 6)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.drop = nn.Dropout(0.3)
        self.scan = scan

    def forward(self, x):
        x = self.head(x)
        if self.scan:
            x = fnn.scan_layers(self.blocks, x, scale=0.5)
        else:
            for block in self.blocks:
                x = block(x, scale=0.5)
        return self.drop(x)


X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


def loss(net, x):
    return (net(x) ** 2 * jnp.arange(6)).mean()


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def pair(depth=3):
    """A scanned stack and one in a loop, of the same values."""
    fnn.manual_seed(0)
    scanned, looped = Stack(depth, scan=True), Stack(depth, scan=False)
    looped.load_state_dict(scanned.state_dict())
    return scanned, looped


def both(run, depth=3):
    """What a function gives for the scanned stack and for the one in a loop, from the same seed."""
    results = []
    for net in pair(depth):
        fnn.manual_seed(1)
        results.append(run(net))
    return results


def assert_same(results):
    ours, theirs = results
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), ours, theirs)


def scans(function, *args):
    """How many scans a function stages."""
    return str(jax.make_jaxpr(function)(*args)).count("scan[")


def test_results_gradients_draws_and_state_are_those_of_the_loop():
    def run(net):
        value, grads = fnn.jit(fnn.value_and_grad(loss))(net, X)
        return value, grads, dict(net.state_dict())

    assert_same(both(run))


def test_training_is_that_of_the_loop():
    def run(net):
        optimizer = fnn.optim.Optimizer(net, optax.adam(1e-2))

        @fnn.jit
        def step(x):
            value, grads = fnn.value_and_grad(loss)(net, x)
            optimizer.step(grads)
            return value

        values = [step(X) for _ in range(3)]
        return values, dict(net.state_dict())

    assert_same(both(run))


def test_pure_functions_are_those_of_the_loop():
    def run(net):
        _, apply = fnn.pure(net)
        params, state = fnn.split(net)

        def run(params, state, x):
            return apply(params, x, state=state, rng=jax.random.key(2), training=True)

        out = jax.jit(run)(params, state, X)

        def value(params):
            return (run(params, state, X)[0] ** 2).sum()

        hvp = jax.jit(lambda p: jax.jvp(jax.grad(value), (p,), (jax.tree.map(jnp.ones_like, p),))[1])(params)
        many = jax.jit(jax.vmap(lambda x: apply(params, x[None], state=state)[0]))(X)
        checkpointed = jax.jit(jax.grad(jax.checkpoint(value)))(params)
        assert scans(run, params, state, X) == int(net.scan)
        return out, many, checkpointed, jax.tree.map(lambda h: h / 100, hvp)

    assert_same(both(run))


def test_vmap_over_models():
    def run(net):
        _, apply = fnn.pure(net)
        params, state = jax.tree.map(lambda value: np.stack([value, value + 1]), fnn.split(net))
        return jax.jit(jax.vmap(lambda p, s: apply(p, X, state=s, training=True, rng=jax.random.key(1))))(params, state)

    assert_same(both(run))


def test_it_is_exported_for_every_platform():
    net, _ = pair()
    _, apply = fnn.pure(net)
    params, state = fnn.split(net)
    run = jax.jit(jax.grad(lambda p, x: (apply(p, x, state=state)[0] ** 2).sum()))
    assert jax.export.export(run, platforms=["cpu", "cuda", "tpu"])(params, X).nr_devices == 1


def test_a_mesh_and_shard_map():
    net, loop = pair()
    mesh = jax.make_mesh((1,), ("data",))
    results = []
    for module in (net.eval(), loop.eval()):
        _, apply = fnn.pure(module)
        params, state = fnn.split(module)
        rows = jax.device_put(X, jax.NamedSharding(mesh, jax.P("data")))

        def run(params, state, x, apply=apply):
            return apply(params, x, state=state)[0]

        spread = jax.shard_map(run, mesh=mesh, in_specs=(jax.P(), jax.P(), jax.P("data")), out_specs=jax.P("data"))
        with jax.set_mesh(mesh):
            explicit = jax.jit(run)(params, state, rows)
        results.append((jax.jit(spread)(params, state, rows), explicit))
    assert_same(results)


def test_eager_code_runs_the_loop():
    assert_same(both(lambda net: net(X)))
    net = pair()[0].eval()
    assert scans(net.forward, X) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fnn.scan._scanned", None)  # not called
        net(X)


def test_a_scan_inside_a_checkpoint_and_a_checkpoint_inside_a_scan():
    class Checkpointed(Block):
        def forward(self, x):
            return fnn.checkpoint(super().forward)(x)

    fnn.manual_seed(0)
    blocks = nn.ModuleList(Checkpointed() for _ in range(3))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 6)), jnp.float32)

    def run(body):
        fnn.manual_seed(1)
        state = blocks.state_dict()
        value, grads = fnn.jit(lambda x: fnn.value_and_grad(lambda blocks: (body(x) ** 2).sum())(blocks))(x)
        new = dict(blocks.state_dict())
        blocks.load_state_dict(state)
        return value, grads, new

    looped = run(lambda x: blocks[2](blocks[1](blocks[0](x))))
    assert_same((run(lambda x: fnn.scan_layers(blocks, x)), looped))
    assert_same((run(lambda x: fnn.checkpoint(lambda x: fnn.scan_layers(blocks, x))(x)), looped))


def test_frozen_parameters_get_no_gradient():
    def run(net):
        net.blocks[1].requires_grad_(False)
        net.head.requires_grad_(False)
        grads = fnn.jit(fnn.value_and_grad(loss))(net, X)[1]
        assert sorted(grads["blocks"]) == ["0", "2"]
        return grads

    assert_same(both(run))


def test_layers_may_share_weights():
    layer = nn.Linear(4, 4)
    same = nn.ModuleList([layer] * 5)
    tied = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    for module in tied:
        module.weight = tied[0].weight
    for layers in (same, tied):

        def value(layers, x):
            return (fnn.scan_layers(layers, x) ** 2).sum()

        def looped(layers, x):
            for module in layers:
                x = module(x)
            return (x**2).sum()

        x = jnp.ones((2, 4))
        assert_same([fnn.jit(fnn.value_and_grad(f))(layers, x) for f in (value, looped)])
        assert scans(lambda x, layers=layers: fnn.scan_layers(layers, x), x) == 1


def test_any_structure_of_arrays_goes_through():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, state):
            return {"x": self.linear(state["x"]), "n": state["n"] + 1}

    blocks = nn.Sequential(*[Pair() for _ in range(4)])
    out = fnn.jit(lambda x: fnn.scan_layers(blocks, {"x": x, "n": 0}))(jnp.ones((2, 3)))
    assert int(out["n"]) == 4
    np.testing.assert_allclose(out["x"], blocks({"x": jnp.ones((2, 3)), "n": 0})["x"], rtol=1e-5)


def test_none_and_one_layer():
    layer = nn.Linear(4, 4)
    np.testing.assert_array_equal(fnn.jit(lambda x: fnn.scan_layers([], x))(X), X)
    np.testing.assert_array_equal(fnn.jit(lambda x: fnn.scan_layers([layer], x))(X), fnn.jit(layer)(X))


def changed_rate(blocks):
    blocks[2].drop.p = 0.1


def with_hook(blocks):
    blocks[1].first.register_forward_hook(lambda module, args, out: 2 * out)


def other_class(blocks):
    blocks[2].drop = nn.Identity()


def other_shape(blocks):
    blocks[2].first, blocks[2].second = nn.Linear(6, 5), nn.Linear(5, 6, bias=False)


def other_attribute(blocks):
    blocks[0].index = 0


def other_mode(blocks):
    blocks[1].norm.eval()


def other_dtype(blocks):
    blocks[1].norm.num_batches_tracked = nn.Buffer(np.zeros((), np.int16))


def shared_state(blocks):
    blocks[2].norm = blocks[1].norm


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (changed_rate, "attribute 'p' of 2.drop is not that of layer 0"),
        (with_hook, "1.first has hooks"),
        (other_class, "2.drop is a Identity, and 0.drop a Dropout"),
        (other_shape, "attribute 'out_features' of 2.first is not that of layer 0"),
        (other_attribute, "attribute 'index' of 1 is not that of layer 0"),
        (other_mode, "attribute 'training' of 1.norm is not that of layer 0"),
        (other_dtype, "parameters or buffers of layer 1 have other shapes or dtypes than those of layer 0"),
        (shared_state, "Block writes to state that layers share"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_layers_that_cannot_be_scanned_run_in_a_loop_and_a_warning_says_why(change, why):
    def run(net):
        change(net.blocks)
        if not net.scan:
            return fnn.jit(net)(X)
        with pytest.warns(UserWarning, match=re.escape(f"one by one, since {why}")):
            return fnn.jit(net)(X)

    assert_same(both(run))


def test_a_layer_that_changes_the_shape_runs_in_a_loop():
    layers = [nn.Linear(4, 4).to(jnp.bfloat16), nn.Linear(4, 4).to(jnp.bfloat16)]

    def widen(x):
        return fnn.scan_layers([nn.Flatten(0, 1), nn.Flatten(0, 1)], x)

    with pytest.warns(UserWarning, match=r"Flatten takes float32\[2,3,4\] and returns float32\[6,4\]"):
        assert fnn.jit(widen)(jnp.ones((2, 3, 4))).shape == (24,)
    with pytest.raises(RuntimeError, match="same dtype"):
        fnn.jit(lambda x: fnn.scan_layers(layers, x))(jnp.ones((2, 4)))


def test_a_layer_whose_output_varies_over_another_axis_runs_in_a_loop():
    class Where(nn.Linear):
        def forward(self, x):
            return super().forward(x) + jax.lax.axis_index("data")

    layers = nn.ModuleList(Where(4, 4) for _ in range(3))
    spread = jax.shard_map(
        lambda x: fnn.scan_layers(layers, x), mesh=jax.make_mesh((1,), ("data",)), in_specs=jax.P(), out_specs=jax.P("data")
    )
    with pytest.warns(UserWarning, match="Where takes"):
        assert jax.jit(spread)(jnp.ones((2, 4))).shape == (2, 4)


def test_a_layer_that_sets_attributes_runs_in_a_loop():
    class Noting(nn.Linear):
        def forward(self, x):
            x = super().forward(x)
            self.mean = x.mean()
            return x

    layers = nn.ModuleList(Noting(3, 3) for _ in range(3))
    with pytest.warns(UserWarning, match="forward of Noting sets attributes"):
        out, values = fnn.jit(fnn.capture(Calls(layers), ["layers.0.mean", "layers.2.mean"]))(jnp.ones((2, 3)))
    np.testing.assert_allclose(values["layers.2.mean"], out.mean(), rtol=1e-6)
    assert values["layers.0.mean"] != values["layers.2.mean"]


class Calls(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return fnn.scan_layers(self.layers, x)


def test_a_captured_layer_is_run_in_the_loop():
    net = Calls(nn.ModuleList(nn.Linear(3, 3) for _ in range(3)))
    with pytest.warns(UserWarning, match="1 has hooks"):
        _, values = fnn.jit(fnn.capture(net, ["layers.1"]))(jnp.ones((2, 3)))
    np.testing.assert_allclose(values["layers.1"], net.layers[1](net.layers[0](jnp.ones((2, 3)))), rtol=1e-5)


def test_hooks_of_all_modules_see_each_layer():
    net, seen = Calls(nn.ModuleList(nn.Linear(3, 3) for _ in range(3))), []
    with (
        nn.modules.module.register_module_forward_hook(lambda module, args, out: seen.append(type(module).__name__)),
        pytest.warns(UserWarning, match="there are hooks of all modules"),
    ):
        fnn.jit(net)(jnp.ones((2, 3)))
    assert seen == ["Linear", "Linear", "Linear", "Calls"]


def test_a_change_of_any_layer_is_seen_by_the_compiled_function():
    net, _ = pair()
    net.eval()
    run = fnn.jit(net)
    before = run(X)
    net.blocks[1].second.weight.data.fill_(0.0)
    net.blocks[2].norm.bias.data.fill_(1.0)
    after = run(X)
    np.testing.assert_allclose(after, net(X), rtol=1e-5, atol=1e-6)
    assert not np.allclose(before, after)
    net.blocks[2].drop = nn.Identity()
    with pytest.warns(UserWarning, match="Identity"):
        np.testing.assert_allclose(run(X), net(X), rtol=1e-5, atol=1e-6)


def test_an_error_in_a_layer_leaves_everything_as_it_was():
    net, _ = pair()
    before = {name: np.asarray(value) for name, value in net.state_dict().items()}
    with pytest.raises(TypeError, match="unexpected keyword"):
        fnn.jit(lambda x: fnn.scan_layers(net.blocks, x, wrong=1))(jnp.ones((2, 6)))
    with pytest.raises(RuntimeError, match=r"in first: Linear|in 0\.first"):
        fnn.jit(lambda x: fnn.scan_layers(net.blocks, x))(jnp.ones((2, 5)))
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_draws_go_on_after_the_scan_as_after_the_loop():
    def run(net):
        step = fnn.jit(net)
        return step(X), step(X), fnn.nn.functional.dropout(jnp.ones(16), 0.5)

    assert_same(both(run))


def test_dropout_without_a_key_is_refused_in_pure_functions():
    net, _ = pair()
    _, apply = fnn.pure(net)
    params, state = fnn.split(net)
    with pytest.raises(fnn.StateError, match="pass rng=key"):
        jax.jit(lambda p: apply(p, X, state=state, training=True))(params)


@pytest.mark.parametrize("kind", ["Encoder", "Decoder"])
def test_transformers_scan_their_layers_where_they_are_many_or_where_they_shall(kind):
    layer = getattr(nn, f"Transformer{kind}Layer")(4, 2, 6, dropout=0.2, batch_first=True)
    x = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    inputs = (x,) if kind == "Encoder" else (x, x + 1)
    options = {"enable_nested_tensor": False} if kind == "Encoder" else {}
    causal = nn.Transformer.generate_square_subsequent_mask(3)

    def stack(depth):
        fnn.manual_seed(0)
        return getattr(nn, f"Transformer{kind}")(layer, depth, **options)

    def run(module):
        fnn.manual_seed(1)
        return fnn.jit(lambda: module(*inputs, causal))()

    def staged(module):
        return scans(lambda *inputs: module.eval()(*inputs, causal), *inputs)

    few, many = stack(2), stack(DEEP)
    assert staged(stack(DEEP - 1)) == 0
    assert staged(many) == 1
    many.scan_layers = False
    assert staged(many) == 0
    many.scan_layers = None
    many.layers[3].register_forward_hook(lambda module, args, out: None)
    assert staged(many) == 0  # without a warning: nobody asked for a scan
    few.scan_layers = True
    results = run(few), run(stack(2))
    assert_same(results)
    assert staged(few) == 1


def test_a_deep_stack_stages_one_layer():
    def equations(depth):
        net = Calls(nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(depth)))
        _, apply = fnn.pure(net)
        text = str(jax.make_jaxpr(jax.grad(lambda p: apply(p, jnp.ones((2, 4))).sum()))(fnn.split(net)[0]))
        return text.count("tanh"), text.count("dot_general")

    assert equations(3) == equations(30)
