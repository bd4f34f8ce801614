"""The README: its commands, its examples and its tables are true."""

import importlib.util
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
import fnn.nn as nn
import fnn.nn.functional as F

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HAS_TORCH = importlib.util.find_spec("torch") is not None


def section(title):
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", README, flags=re.MULTILINE | re.DOTALL)
    return text


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
    functional, with_state, *stateful, sequences, around, files = run_blocks()

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

    assert around["table"].total_parameters == 8 * 27 + 8 + 2 * 8 + 10 * 288 + 10
    assert around["values"]["0"].shape == around["values"]["2"].shape == (4, 8, 6, 6)
    assert around["report"].path is None
    assert around["losses"][-1] < around["losses"][0]
    assert (around["net"][4].weight == 0).sum() == 1440

    assert files["rest"] == {"step": 100}
    assert files["on_device"].keys() == files["net"].state_dict().keys()

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
    expected |= set(torch.nn.utils.__all__)
    ours = public(nn, type) | public(F, callables) | public(nn.init, callables) | set(nn.utils.__all__)
    listed = set(re.findall(r"`(\w+)`", section("What there is").split("except")[1].split("PyTorch's own")[0]))
    assert expected - ours - helpers == listed
    for name in ours & expected:
        space = next(space for space in (nn, F, nn.init, nn.utils) if hasattr(space, name))
        assert getattr(space, name).__doc__, name
