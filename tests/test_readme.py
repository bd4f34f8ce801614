"""The README: its commands, its examples and its tables are true."""

import importlib.util
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
import fnn.nn as nn
import fnn.nn.functional as F

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HAS_TORCH = importlib.util.find_spec("torch") is not None
LABELS = np.arange(4) % 2


def section(title):
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", README, flags=re.MULTILINE | re.DOTALL)
    return text


def traps():
    """The second porting table: PyTorch's expression, and what to write instead."""
    table = section("Porting from PyTorch").split("| on a JAX array | write |")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[2].strip("`") for row in rows}


def test_it_begins_with_two_commands_that_do_all_the_set_up():
    commands = [line for line in README.split("\n## ")[0].splitlines() if line.startswith("    ")]
    assert len(commands) == 2
    for command, extra in zip(commands, ("examples", "test"), strict=True):
        assert command.startswith(f'    python3 -m venv .venv && .venv/bin/pip install -q -e ".[{extra}]" && .venv/bin/python ')
    assert commands[0].endswith("examples/digits.py")


def test_ci_runs_the_test_command():
    command = [line.strip() for line in README.splitlines() if line.startswith("    ")][1]
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == command


def run_blocks():
    """Runs the python blocks in order in one namespace, those that import torch only where it is; the names after each."""
    namespace, after = {}, []
    for match in re.finditer(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL):
        if "import torch" in match[1] and not HAS_TORCH:
            continue
        before = README[: match.start(1)].count("\n")  # so that a traceback shows the line of the README
        exec(compile("\n" * before + match[1], ROOT / "README.md", "exec"), namespace)
        after.append(dict(namespace))
    return after


def test_the_examples_run_and_do_what_they_say():
    functional, with_state, *stateful, sequences = run_blocks()

    params, logits = functional["params"], functional["logits"]
    assert params["0"]["weight"].shape == (16, 4)
    assert functional["state"] == {}
    assert functional["each"]["0"]["weight"].shape == (8, 16, 4)
    assert functional["votes"].shape == (5, 8, 3)
    assert functional["hessian"].shape == (3, 3)
    jax.tree.map(close, functional["same_grads"], functional["grads"])
    jax.tree.map(lambda each, whole: close(each.mean(0), whole), functional["each"], functional["grads"])
    close(functional["same_logits"], logits)
    assert not np.allclose(functional["noisy"], logits)
    assert jax.tree.map(lambda leaf: leaf.shape, functional["shapes"]) == jax.tree.map(jnp.shape, params)
    assert functional["exported"].platforms == ("cpu", "cuda", "tpu")

    assert with_state["state"]["1"]["num_batches_tracked"] == 1
    assert with_state["state"]["1"]["running_mean"].any()

    assert sequences["y"].shape == (1, 1, 32)
    assert [int(layer["self_attn"].position) for layer in sequences["cache"]] == [5, 5]
    assert sequences["deep"].shape == (1, 10, 32)
    assert sequences["outputs"].shape == (3, 7, 32)
    assert not sequences["outputs"][0, 4:].any()
    assert sequences["last"].shape == (2, 3, 16)

    if HAS_TORCH:
        (names,) = stateful
        assert names["losses"][-1] < names["losses"][0]
        assert names["net"].training is False
        assert names["predicted"].shape == (32,)
        assert list(names["weights"]) == list(names["checkpoint"])


def close(given, expected):
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)


def test_what_is_constant_under_jit_is_as_described():
    net = nn.Linear(2, 2)
    net.scale, outside = 2.0, 1.0

    @fnn.jit
    def call(x):
        return net(x) * net.scale * outside

    x = jnp.ones(2)
    first = call(x)
    net.weight.data.fill_(0.5)
    net.bias.data.zero_()
    np.testing.assert_allclose(call(x), [2.0, 2.0])  # values are inputs
    net.scale = 3.0
    np.testing.assert_allclose(call(x), [3.0, 3.0])  # attributes are guarded
    outside = 2.0
    np.testing.assert_allclose(call(x), [3.0, 3.0])  # other values are not
    assert first.shape == (2,)


def test_the_replacements_for_torch_run(tmp_path):
    net, x, y = nn.Linear(3, 2), jnp.ones((4, 3)), LABELS
    schedule = optax.cosine_decay_schedule(1e-3, 10)
    optimizer = fnn.optim.Optimizer(net, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)))
    before = net.weight.value
    loss = fnn.backward(lambda net: F.cross_entropy(net(x), y), net)
    assert loss.shape == ()
    assert net.weight.grad.shape == (2, 3)
    optimizer.step()
    assert not np.allclose(before, net.weight)
    optimizer.zero_grad()
    assert net.weight.grad is None

    np.testing.assert_array_equal(fnn.functional_call(net, {"weight": net.weight.value}, x), net(x))
    np.testing.assert_array_equal(fnn.checkpoint(net)(x), net(x))
    fnn.manual_seed(0)
    masks = [F.dropout(jnp.ones(64), 0.5, True) for _ in range(2)]
    fnn.manual_seed(0)
    np.testing.assert_array_equal(F.dropout(jnp.ones(64), 0.5, True), masks[0])
    assert not np.array_equal(*masks)
    with pytest.raises(fnn.StateError, match="rng=key"):
        jax.jit(lambda x: F.dropout(x, 0.5, True))(jnp.ones(64))
    negative = -jnp.ones(2)
    assert F.relu(negative, inplace=True).tolist() == [0.0, 0.0]
    assert negative.tolist() == [-1.0, -1.0]
    assert net.to(jax.devices()[0]).to("cpu") is net

    np.savez(tmp_path / "net.npz", **net.state_dict())
    other = nn.Linear(3, 2)
    other.load_state_dict(np.load(tmp_path / "net.npz"))
    np.testing.assert_array_equal(other(x), net(x))
    net.weight.requires_grad_(False)
    nn.init.ones_(net.weight)
    assert net.weight.data.sum() == 6


@pytest.mark.skipif(not HAS_TORCH, reason="needs torch")
@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_the_traps_differ_from_torch_and_the_advice_does_not():
    import torch

    table = traps()
    values = np.array([[1.0, 5.0, 3.0], [6.0, 0.0, 4.0], [2.0, 8.0, 7.0]], np.float32)
    ours = {"jnp": jnp, "np": np, "x": jnp.asarray(values), "a": jnp.arange(2), "b": jnp.arange(3)}
    theirs = {"torch": torch, "x": torch.tensor(values), "a": torch.arange(2), "b": torch.arange(3)}

    def same(left, right):
        left, right = ([np.asarray(leaf) for leaf in jax.tree.leaves(tree)] for tree in (left, right))
        return len(left) == len(right) and all(
            a.shape == b.shape and np.allclose(a, b) for a, b in zip(left, right, strict=True)
        )

    for code in ("x.transpose(0, 1)", "x.repeat(2, 1)", "x.max(1)[0]", "x.sort(1)[0]", "x.std()", "x.nonzero()"):
        assert not same(eval(code, ours), eval(code, theirs)), code
        assert same(eval(table[code], ours), eval(code, theirs)), code
    for code in ("torch.split(x, 2)", "torch.meshgrid(a, b)"):
        assert same(eval(table[code], ours), eval(code, theirs)), code
    assert not same(jnp.split(ours["x"], 3), torch.split(theirs["x"], 3))
    assert not same(jnp.meshgrid(ours["a"], ours["b"]), torch.meshgrid(theirs["a"], theirs["b"], indexing="ij"))
    assert eval(table["x.size()"], ours) == tuple(theirs["x"].size())


def test_the_other_traps_are_as_described():
    assert {"x.size()", "y = x; y += 1", "x[0] = 1", "torch.arange(3).dtype", "x[len(x)]"} <= traps().keys()
    x = y = jnp.zeros((3, 2))
    y += 1
    assert x.sum() == 0
    assert x.size == 6
    with pytest.raises(TypeError, match="immutable"):
        x[0] = 1
    parameter = nn.Parameter(x)
    parameter[0] = 1
    assert parameter.sum() == 2
    assert x.at[0].set(1).sum() == 2
    assert jnp.asarray(np.arange(3)).dtype == jnp.int32
    assert jnp.asarray(np.zeros(3)).dtype == jnp.float32
    assert x.at[len(x)].set(1).sum() == 0
    assert jnp.arange(3)[3] == 2
    for method in ("permute", "unsqueeze", "float"):
        assert not hasattr(x, method)
    with pytest.raises(NotImplementedError):
        x.view(2, 3)


@pytest.mark.skipif(not HAS_TORCH, reason="needs torch")
def test_it_lists_what_is_not_there():
    import torch

    def public(space, kinds):
        return {name for name, value in vars(space).items() if not name.startswith("_") and isinstance(value, kinds)}

    # torch.nn.functional imports these for itself
    helpers = {"assert_int_or_pair", "boolean_dispatch", "handle_torch_function", "has_torch_function"}
    helpers |= {"has_torch_function_unary", "has_torch_function_variadic"}
    callables = (types.FunctionType, types.BuiltinFunctionType)
    expected = public(torch.nn, type) | public(torch.nn.functional, callables) | public(torch.nn.init, callables)
    ours = public(nn, type) | public(F, callables) | public(nn.init, callables)
    listed = set(re.findall(r"`(\w+)`", section("What there is").split("except")[1].split("Not yet:")[0]))
    assert expected - ours - helpers == listed
    for name in ours & expected:
        space = next(space for space in (nn, F, nn.init) if hasattr(space, name))
        assert getattr(space, name).__doc__, name
