"""The porting tables of the README: every row is true, and every row is here."""

import itertools
import os
import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
import fnn.nn as nn
import fnn.nn.functional as F

torch = pytest.importorskip("torch")

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SECTION = README.split("## Porting from PyTorch\n")[1].split("\n## ")[0]


def table(header):
    """The rows of a table of the README, by their first cell."""
    lines = SECTION.split(header)[1].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in itertools.takewhile(lambda line: line, lines)]
    return {row[0]: row[1:] for row in rows}


PROGRAMS = table("| PyTorch | fnn |")
METHODS = table("| PyTorch | write |")
TRAPS = table("| PyTorch | on a JAX array | write |")

# Programs: a test for each row, by the beginning of its first cell

X, Y = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)), np.arange(4) % 2


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(F.relu(self.body(x)))


def loss_of(net):
    return F.cross_entropy(net(X), Y)


def backward():
    net = Net()
    assert fnn.backward(lambda net: F.cross_entropy(net(X), Y), net).shape == ()
    assert net.body.weight.grad.shape == (5, 3)


def gradient_of_an_input():
    net = Net()
    by_fnn = fnn.grad(lambda net, x: net(x).sum(), argnums=1)(net, X)
    np.testing.assert_allclose(by_fnn, jax.grad(lambda x: net(x).sum())(X), rtol=1e-5)


def no_grad():
    assert isinstance(Net()(X), jax.Array)


def autograd_function():
    @jax.custom_jvp
    def sign(x):
        return jnp.sign(x)

    sign.defjvp(lambda primals, tangents: (sign(*primals), tangents[0]))
    assert fnn.grad(lambda x: sign(x).sum())(X).tolist() == np.ones((4, 3)).tolist()


def hook_of_a_tensor():
    net, gate = Net(), nn.Identity()
    plain = jax.grad(lambda x: net(x).sum())(X)
    gate.register_full_backward_hook(lambda module, grad_input, grad_output: (grad_input[0] * 2,))
    np.testing.assert_allclose(jax.grad(lambda x: net(gate(x)).sum())(X), plain * 2, rtol=1e-5)


def steps():
    net = Net()
    optimizer, before = fnn.optim.Optimizer(net, optax.adam(1e-3)), net.head.bias.value
    fnn.backward(loss_of, net)
    optimizer.step()
    assert not np.array_equal(before, net.head.bias)
    optimizer.zero_grad()
    assert net.head.bias.grad is None
    optimizer.step(fnn.value_and_grad(loss_of)(net)[1])


def groups():
    net = Net()
    optimizer = fnn.optim.Optimizer(net, {"head.*": optax.adamw(1e-3), "*": optax.adamw(1e-4)})
    before = [np.asarray(p) for p in (net.head.weight, net.body.weight)]
    optimizer.step(fnn.grad(loss_of)(net))
    moved = [np.abs(p - old).max() for p, old in zip((net.head.weight, net.body.weight), before, strict=True)]
    assert moved[0] > 5 * moved[1] > 0


def coupled_decay():
    ours, theirs = nn.Linear(3, 2), torch.nn.Linear(3, 2)
    ours.load_state_dict(theirs.state_dict())
    optimizer = fnn.optim.Optimizer(ours, optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-2)))
    optimizer.step(fnn.grad(lambda net: net(X).sum())(ours))
    theirs(torch.tensor(np.asarray(X))).sum().backward()
    torch.optim.Adam(theirs.parameters(), lr=1e-2, weight_decay=0.1).step()
    np.testing.assert_allclose(ours.weight, theirs.weight.detach(), rtol=1e-4)


def closures():
    net = Net()
    optimizer = fnn.optim.Optimizer(net, optax.lbfgs())

    @fnn.jit
    def step():
        loss, grads = fnn.value_and_grad(loss_of)(net)
        optimizer.step(grads, value=loss, grad=grads, value_fn=lambda _: loss_of(net))
        return loss

    assert step() > step()


def add_param_group():
    net = Net()
    net.body.requires_grad_(False)
    optimizer = fnn.optim.Optimizer(net, optax.sgd(0.1))
    net.body.requires_grad_(True)
    assert optimizer.add_parameters() == ["body.weight", "body.bias"]


def schedulers():
    net = Net()
    optimizer = fnn.optim.Optimizer(net, optax.sgd(optax.cosine_decay_schedule(1e-3, 1)))
    optimizer.step(fnn.grad(loss_of)(net))
    before = net.head.bias.value
    optimizer.step(fnn.grad(loss_of)(net))
    np.testing.assert_array_equal(before, net.head.bias)  # the rate is 0 by now
    fnn.optim.Optimizer(net, optax.adam(optax.cosine_decay_schedule(1e-3, 10)))


def learning_rate_by_hand():
    net = Net()
    optimizer = fnn.optim.Optimizer(net, optax.inject_hyperparams(optax.adam)(learning_rate=1e-3))
    optimizer.state = optax.tree.set(optimizer.state, learning_rate=0.0)
    before = net.head.bias.value
    optimizer.step(fnn.grad(loss_of)(net))
    np.testing.assert_array_equal(before, net.head.bias)


def clipping():
    net = Net()
    fnn.backward(loss_of, net)
    grads = fnn.split(net)[0]
    norm = nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
    assert norm > 1e-3
    np.testing.assert_allclose(nn.utils.get_total_norm([p.grad for p in net.parameters()]), 1e-3, rtol=1e-3)
    clipped, _ = nn.utils.clip_grad_norm_(grads, 1.0)
    np.testing.assert_allclose(optax.global_norm(clipped), 1.0, rtol=1e-3)
    by_optax = optax.clip_by_global_norm(1.0)
    np.testing.assert_allclose(optax.global_norm(by_optax.update(grads, by_optax.init(grads))[0]), 1.0, rtol=1e-3)


def averaged_model():
    net = Net()
    average = fnn.optim.AveragedModel(net)
    average.update_parameters(net)
    np.testing.assert_array_equal(average(X), net(X))


def mixed_precision():
    net, scaler = Net(), fnn.GradScaler()
    optimizer = fnn.optim.Optimizer(net, optax.sgd(0.1))
    with fnn.autocast("cuda"):
        assert net(X).dtype == jnp.float16
        assert (X @ X.T).dtype == jnp.float32
        grads = fnn.grad(lambda net: scaler.scale(loss_of(net)))(net)
    scaler.step(optimizer, grads)
    scaler.update()


def products_in_lower_precision():
    with fnn.autocast():
        a, b = fnn.precision.to_lower(X, X.T)
    assert (a @ b).dtype == jnp.bfloat16


def policy():
    net = Net()
    fnn.Policy(parameters=jnp.float32, computation=jnp.bfloat16, output=jnp.float32).apply(net)
    assert net(X).dtype == net.head.weight.dtype == jnp.float32
    seen = []
    with net.body.register_forward_hook(lambda module, args, out: seen.append(out.dtype)):
        net(X)
    assert seen == [jnp.bfloat16]


def detect_anomaly():
    net = Net()
    net.body.weight[0, 0] = np.nan
    out, report = fnn.find_nan(net)(X)
    assert report.path == "body"
    assert np.isnan(out).any()


def compiled():
    net = Net()
    expected = net(X)
    np.testing.assert_allclose(fnn.jit(net)(X), expected, rtol=1e-5)
    net.compile()
    np.testing.assert_allclose(net(X), expected, rtol=1e-5)


def branches():
    f = fnn.jit(lambda y: (jnp.where(y.sum() > 0, 1.0, -1.0), jax.lax.cond(y.sum() > 0, jnp.sin, jnp.cos, y)))
    assert f(jnp.ones(2))[0] == 1
    with pytest.raises(jax.errors.TracerBoolConversionError):
        fnn.jit(lambda y: 1 if y.sum() > 0 else 2)(jnp.ones(2))
    with pytest.raises(jax.errors.NonConcreteBooleanIndexError):
        fnn.jit(lambda y: y[y > 0])(jnp.ones(2))


def keeping_hook():
    net, kept = Net(), []
    with net.body.register_forward_hook(lambda module, args, out: kept.append(out)):
        fnn.backward(loss_of, net)
        fnn.jit(net)(X)
        with pytest.raises(fnn.StateError, match=r"fnn\.capture"):
            kept.pop().sum()
    _, values = fnn.jit(fnn.capture(net, ["body"]))(X)
    np.testing.assert_allclose(values["body"], kept[0], rtol=1e-5)


def functional_call():
    net = Net()
    np.testing.assert_array_equal(fnn.functional_call(net, {"head.bias": net.head.bias.value}, X), net(X))


def checkpoint():
    net = Net()
    np.testing.assert_array_equal(fnn.checkpoint(net)(X), net(X))


def export():
    net = Net()
    params, _ = fnn.split(net)
    exported = jax.export.export(jax.jit(fnn.pure(net).apply))(params, X)
    np.testing.assert_allclose(exported.call(params, X), net.eval()(X), rtol=1e-5)


def seeds():
    fnn.manual_seed(0)
    first = F.dropout(jnp.ones(64), 0.5, True)
    fnn.manual_seed(0)
    np.testing.assert_array_equal(F.dropout(jnp.ones(64), 0.5, True), first)
    with fnn.rng(jax.random.key(1)):
        assert not np.array_equal(F.dropout(jnp.ones(64), 0.5, True), first)


def dropout():
    fnn.jit(lambda x: F.dropout(x, 0.5, True))(X)
    with pytest.raises(fnn.StateError, match="rng=key"):
        jax.jit(lambda x: F.dropout(x, 0.5, True))(X)
    apply = jax.jit(fnn.pure(nn.Dropout()).apply, static_argnames="training")
    assert apply({}, X, rng=jax.random.key(0), training=True).shape == X.shape


def inplace():
    x = -jnp.ones(2)
    assert F.relu(x, inplace=True).tolist() == [0.0, 0.0]
    assert x.tolist() == [-1.0, -1.0]


def swa_schedule():
    schedule = optax.join_schedules([optax.constant_schedule(0.1), optax.constant_schedule(0.05)], [3])
    assert [round(float(schedule(step)), 2) for step in (2, 3)] == [0.1, 0.05]


def files():
    net, other = Net(), Net()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.pt")
        fnn.save(net, path)
        other.load_state_dict(fnn.load(path))
        np.testing.assert_array_equal(other(X), net(X))
        state = torch.load(path, weights_only=True)
        torch.save(state, path)
        assert fnn.load(path)["head.bias"].tolist() == net.head.bias.tolist()


def checkpoints():
    net = Net()
    optimizer = fnn.optim.Optimizer(net, optax.adam(0.1))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "last.pt")
        fnn.save_checkpoint(path, model=net, optimizer=optimizer, epoch=3)
        before = net(X)
        optimizer.step(fnn.grad(loss_of)(net))
        assert fnn.load_checkpoint(path, model=net, optimizer=optimizer)["epoch"] == 3
    np.testing.assert_array_equal(net(X), before)


def prefixes():
    net = Net()
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    Net().load_state_dict(state, prefix="module.")
    nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    assert list(state) == list(net.state_dict())


def state_of_random_numbers():
    state = fnn.random.default_generator.get_state()
    first = F.dropout(jnp.ones(64), 0.5, True)
    fnn.random.default_generator.set_state(state)
    np.testing.assert_array_equal(F.dropout(jnp.ones(64), 0.5, True), first)


def values_of_a_state_dict():
    net = nn.Linear(2, 2)
    before = net.state_dict()["weight"]
    net.state_dict(keep_vars=True)["weight"].mul_(2)
    np.testing.assert_array_equal(net.weight, before * 2)


def devices():
    net = Net()
    assert net.to(jax.devices()[0]).to("cpu") is net
    mesh = jax.make_mesh((1,), ("d",))
    net.to(jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    assert net.head.weight.value.sharding.mesh == mesh


def meta():
    net = Net().to("meta")
    assert all(p.is_meta for p in net.parameters())
    assert not net.to_empty(device="cpu").head.weight.any()
    assert nn.Linear(10**6, 10**6).weight.shape == (10**6, 10**6)  # 4 TB, were it drawn


def sharing():
    with pytest.raises(NotImplementedError, match="immutable"):
        Net().share_memory()
    mesh = jax.make_mesh((1,), ("batch",))
    rows = jax.device_put(X, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
    assert fnn.jit(Net())(rows).shape == (4, 2)


def parameters():
    p = nn.Linear(2, 2).weight
    p.data = jnp.ones((2, 2))
    p.requires_grad_(False)
    p.add_(1)
    assert p.sum() == 8
    assert nn.init.ones_(p).sum() == 4


def part_of_a_parameter():
    p = nn.Parameter(jnp.ones((2, 2)))
    p.data[0] = 0
    assert p.sum() == 2
    with pytest.raises(AttributeError):
        p.data[0].zero_()


def methods_of_a_parameter():
    p = nn.Parameter(jnp.ones((2, 3)))
    with pytest.raises(AttributeError):
        p.t()
    assert p.T.shape == (3, 2)


TESTED = {
    "`loss.backward()`": backward,
    "`x.requires_grad_()`": gradient_of_an_input,
    "`torch.no_grad()`": no_grad,
    "`torch.autograd.Function`": autograd_function,
    "`y.register_hook(f)`": hook_of_a_tensor,
    "`torch.optim.Adam(net.parameters(), lr": steps,
    "`optimizer.step()`": steps,
    "`torch.optim.AdamW(": groups,
    "`torch.optim.Adam(net.parameters(), weight_decay": coupled_decay,
    "`optimizer.step(closure)`": closures,
    "`optimizer.add_param_group": add_param_group,
    "`CosineAnnealingLR": schedulers,
    "`optimizer.param_groups": learning_rate_by_hand,
    "`nn.utils.clip_grad_norm_": clipping,
    "`torch.optim.swa_utils.AveragedModel": averaged_model,
    "`torch.autocast": mixed_precision,
    "`a @ b` under autocast": products_in_lower_precision,
    "`MixedPrecisionPolicy": policy,
    "`torch.autograd.set_detect_anomaly": detect_anomaly,
    "`net = torch.compile": compiled,
    "`if y.sum() > 0:`": branches,
    "a forward hook": keeping_hook,
    "`torch.func.functional_call`": functional_call,
    "`torch.utils.checkpoint": checkpoint,
    "`torch.export": export,
    "`torch.manual_seed": seeds,
    "`F.dropout": dropout,
    "`inplace=True`": inplace,
    "`torch.optim.swa_utils.SWALR`": swa_schedule,
    "`torch.save(net.state_dict()": files,
    "`torch.save({": checkpoints,
    "`consume_prefix": prefixes,
    "`torch.get_rng_state": state_of_random_numbers,
    "`net.state_dict()[": values_of_a_state_dict,
    "`net.to(device)`": devices,
    '`with torch.device("meta")': meta,
    "`DistributedDataParallel": sharing,
    "`p.data`": parameters,
    "`p.data[0].zero_()`": part_of_a_parameter,
    "`p.view(-1)`": methods_of_a_parameter,
}


@pytest.mark.parametrize("row", list(PROGRAMS), ids=range(len(PROGRAMS)))
def test_programs(row):
    (check,) = [test for start, test in TESTED.items() if row.startswith(start)]
    check()


def test_every_program_is_in_the_table():
    assert len(PROGRAMS) == len(TESTED)


# Expressions, evaluated on both sides

VALUES = np.array([[1.0, 5.0, 3.0], [6.0, 0.0, 4.0], [2.0, 8.0, 7.0]], np.float32)
INDICES = np.array([[0, 2], [1, 1], [2, 0]])
JAX = {"jax": jax, "jnp": jnp, "np": np, "F": F, "key": jax.random.key(0)}


def sides():
    ours = JAX | {"x": jnp.asarray(VALUES), "i": jnp.asarray(INDICES), "a": jnp.arange(2), "b": jnp.arange(3)}
    theirs = {"torch": torch, "x": torch.tensor(VALUES), "i": torch.tensor(INDICES), "a": torch.arange(2), "b": torch.arange(3)}
    return ours, theirs


def code_in(cell):
    return re.search(r"`([^`]*)`", cell)[1]


def result_of(code, names):
    """The value of an expression, or of x after statements."""
    try:
        return eval(code, names)
    except SyntaxError:
        exec(code, names)
        return names["x"]


def same(left, right):
    left, right = ([np.asarray(leaf) for leaf in jax.tree.leaves(tree)] for tree in (left, right))
    return len(left) == len(right) and all(
        a.shape == b.shape and a.dtype.kind == b.dtype.kind and np.allclose(a, b) for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("row", list(METHODS))
def test_methods_that_fail_at_once_and_what_to_write(row):
    ours, theirs = sides()
    with pytest.raises((AttributeError, NameError, NotImplementedError, TypeError, ValueError)):
        result_of(code_in(row), ours)
    ours, theirs = sides()
    got, expected = result_of(code_in(METHODS[row][0]), ours), result_of(code_in(row), theirs)
    if "randn" in row:
        assert got.shape == tuple(expected.shape)
    else:
        assert same(got, tuple(expected) if isinstance(expected, tuple) else expected)


EXPRESSIONS = ["x.transpose(0, 1)", "x.repeat(2, 1)", "x.max(1)[0]", "x.sort(1)[0]", "x.std()", "x.nonzero()"]


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize("code", [*EXPRESSIONS, "torch.split(x, 2)", "torch.meshgrid(a, b)"])
def test_traps_differ_from_torch_and_the_advice_does_not(code):
    ours, theirs = sides()
    by_jnp = code.replace("torch.", "jnp.").replace("x, 2", "x, 3")  # 2 parts of 3 rows would fail
    assert not same(eval(by_jnp, ours), eval(code, theirs))
    assert same(eval(code_in(TRAPS[f"`{code}`"][1]), ours), eval(code, theirs))


def test_the_other_traps_are_as_described():
    others = ["x.size()", "y = x; y += 1", "torch.arange(3).dtype", "x[len(x)]"]
    assert set(TRAPS) == {f"`{code}`" for code in [*EXPRESSIONS, "torch.split(x, 2)", "torch.meshgrid(a, b)", *others]}
    x = y = jnp.zeros((3, 2))
    y += 1
    assert x.sum() == 0
    assert x.size == 6
    with pytest.raises(TypeError, match="not callable"):
        x.size()
    with pytest.raises(TypeError, match="immutable"):
        x[0] = 1
    parameter = nn.Parameter(x)
    parameter[0] = 1
    assert parameter.sum() == 2
    assert jnp.asarray(np.arange(3)).dtype == jnp.int32
    assert jnp.asarray(np.zeros(3)).dtype == jnp.float32
    assert x.at[len(x)].set(1).sum() == 0
    assert jnp.arange(3)[3] == 2
