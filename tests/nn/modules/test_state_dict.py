"""state_dict and load_state_dict, their hooks and extra state, with torch's as the oracle."""

import copy
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracle import assert_close

import fnn

SIDES = {"torch": (torch.nn, torch.tensor), "fnn": (fnn.nn, jnp.asarray)}
ONES = np.ones(2, np.float32)


def same(scenario):
    """Runs a scenario on both sides and asserts that what it returns is the same; returns it."""
    expected, got = (scenario(*SIDES[name]) for name in ("torch", "fnn"))
    assert got == expected
    return got


def values(state):
    return {key: np.asarray(value).tolist() for key, value in state.items()}


def block(nn, tensor):
    class Block(nn.Module):
        _version = 3

        def __init__(self):
            super().__init__()
            self.register_buffer("kept", tensor(ONES))
            self.register_buffer("hidden", tensor(ONES), persistent=False)
            self.weight = nn.Parameter(tensor(ONES * 2))
            self.norm = nn.BatchNorm1d(2)
            self.extra = {"count": 1}

        def get_extra_state(self):
            return dict(self.extra)

        def set_extra_state(self, state):
            self.extra = state

    return Block()


def model(nn, tensor):
    return nn.Sequential(block(nn, tensor), nn.Linear(2, 1), block(nn, tensor))


def test_order_metadata_prefix_and_destination():
    def scenario(nn, tensor):
        net = model(nn, tensor)
        state = net.state_dict(prefix="net.")
        other = net[1].state_dict(destination=state, prefix="more.")
        return list(state), dict(state._metadata), other is state, state["net.0._extra_state"]

    same(scenario)


def test_positional_arguments_are_deprecated():
    def scenario(nn, tensor):
        net, destination = nn.Linear(2, 1), {}
        with pytest.warns(FutureWarning, match="Positional args are being deprecated"):
            result = net.state_dict(destination, "p.", True)
        return list(destination), result is destination, destination["p.weight"] is net.weight

    same(scenario)


def test_keep_vars_gives_the_parameters_themselves():
    def scenario(nn, tensor):
        net = nn.Linear(2, 1)
        return (
            net.state_dict(keep_vars=True)["weight"] is net.weight,
            net.state_dict()["weight"] is net.weight,
            isinstance(net.state_dict()["weight"], nn.Parameter),
        )

    same(scenario)


def test_hooks_of_state_dict():
    def scenario(nn, tensor):
        net, seen = model(nn, tensor), []
        net[0].register_state_dict_pre_hook(lambda m, prefix, keep_vars: seen.append((prefix, keep_vars)))
        net[0].register_state_dict_post_hook(lambda m, state, prefix, meta: state.__delitem__(prefix + "kept"))
        net._register_state_dict_hook(lambda m, state, prefix, meta: {k: v for k, v in state.items() if "norm" not in k})
        handle = net[2].register_state_dict_post_hook(lambda m, state, prefix, meta: seen.append((prefix, meta, len(state))))
        first = list(net.state_dict(keep_vars=True))
        handle.remove()
        second = list(net.state_dict())
        net[1].register_state_dict_post_hook(lambda m, state, prefix, meta: {})
        with pytest.raises(RuntimeError, match="state_dict post-hook must return None"):
            net.state_dict()
        return first, second, seen

    same(scenario)


def test_hooks_of_load_state_dict():
    def scenario(nn, tensor):
        net, seen = model(nn, tensor), []

        def rename(module, state, prefix, meta, strict, missing, unexpected, errors):
            seen.append((type(module).__name__, prefix, meta.get("version"), strict, sorted(state)))
            state[prefix + "weight"] = state.pop(prefix + "old")

        net[0].register_load_state_dict_pre_hook(rename)
        net[2]._register_load_state_dict_pre_hook(lambda state, prefix, *others: seen.append((prefix, len(others))))
        net[2]._register_load_state_dict_pre_hook(
            lambda module, state, prefix, *others: seen.append(type(module).__name__), with_module=True
        )
        net[1].register_load_state_dict_post_hook(
            lambda m, keys: (keys.missing_keys.clear(), keys.unexpected_keys.clear())[2:] or None
        )
        net.register_load_state_dict_post_hook(lambda m, keys: seen.append((len(keys.missing_keys), len(keys.unexpected_keys))))
        state = net.state_dict()
        state["0.old"] = state.pop("0.weight") * 5
        del state["1.bias"]
        result = net.load_state_dict(state)
        net.load_state_dict(state, strict=False)
        net.register_load_state_dict_post_hook(lambda m, keys: keys)
        with pytest.raises(AssertionError, match="not expected to return new values"):
            net.load_state_dict(state)
        return seen, list(result), repr(result), values({"w": net[0].weight.detach()})

    same(scenario)


def test_extra_state_is_taken_and_asked_for():
    def scenario(nn, tensor):
        net = model(nn, tensor)
        state = net.state_dict()
        state["0._extra_state"] = {"count": 7}
        net.load_state_dict(state)
        counts = [net[0].extra, net[2].extra]
        del state["2._extra_state"]
        state["1._extra_state"] = 0
        keys = net.load_state_dict(state, strict=False)
        with pytest.raises(RuntimeError, match=r"Missing key\(s\).*2\._extra_state"):
            net.load_state_dict(state)
        for call in (lambda: nn.Linear(2, 1).get_extra_state(), lambda: nn.Linear(2, 1).set_extra_state(1)):
            with pytest.raises(RuntimeError):
                call()
        return counts, keys.missing_keys, keys.unexpected_keys

    same(scenario)


def test_a_failed_load_leaves_nothing_half_changed():
    net = model(*SIDES["fnn"])
    before, seen = values({k: v for k, v in net.state_dict().items() if "extra" not in k}), net[0].extra
    state = net.state_dict()
    state["0._extra_state"] = {"count": 7}
    state["0.weight"] = np.zeros(2, np.float32)
    state["1.bias"] = np.zeros(5, np.float32)
    with pytest.raises(RuntimeError, match=r"size mismatch for 1\.bias"):
        net.load_state_dict(state)
    assert net[0].extra is seen
    assert values({k: v for k, v in net.state_dict().items() if "extra" not in k}) == before


def test_errors_list_everything_as_in_torch():
    def scenario(nn, tensor):
        net = model(nn, tensor)
        state = net.state_dict()
        del state["0.weight"]
        state["gone.weight"] = state["1.bias"]
        state["0.hidden"] = state["1.bias"]
        state["1.weight"] = tensor(np.zeros((3, 3), np.float32))
        keys = net.load_state_dict({k: v for k, v in state.items() if k != "1.weight"}, strict=False)
        with pytest.raises(RuntimeError) as caught:
            net.load_state_dict(state)
        lines = str(caught.value).split("\n\t")
        return keys.missing_keys, keys.unexpected_keys, lines[:3], lines[3].partition(":")[0]

    same(scenario)


def test_assign_takes_the_dtypes_of_the_values():
    def scenario(nn, tensor):
        net = nn.Linear(2, 1)
        half = {name: value.to("cpu") if nn is torch.nn else value for name, value in net.state_dict().items()}
        half = {k: v.half() if nn is torch.nn else v.astype(jnp.float16) for k, v in half.items()}
        net.bias.requires_grad_(False)
        net.load_state_dict(half)
        plain = str(net.weight.dtype).removeprefix("torch.")
        net.load_state_dict(half, assign=True)
        return plain, str(net.weight.dtype).removeprefix("torch."), net.weight.requires_grad, net.bias.requires_grad

    same(scenario)


def test_a_state_dict_of_a_tied_model_has_all_names_and_loads():
    def scenario(nn, tensor):
        net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        net[1].weight = net[0].weight
        state = net.state_dict()
        net.load_state_dict({name: value * 0 + 3 for name, value in state.items()})
        return list(state), net[1].weight is net[0].weight, values({"w": net[0].weight.detach()})

    same(scenario)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_independent_and_keep_ties_hooks_and_modes(copied):
    def scenario(nn, tensor):
        net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
        net[2].weight = net[0].weight
        net[0].weight.requires_grad_(False)
        net[1].eval()
        net[1].register_buffer("later", tensor(ONES), persistent=False)
        net[0].register_forward_hook(doubled)
        twin = copied(net)
        x = tensor(np.ones((3, 2), np.float32))
        same_output = np.allclose(np.asarray(twin(x).detach() if nn is torch.nn else twin(x)), out_of(net, x))
        twin[0].weight.data.fill_(0)
        return (
            same_output,
            twin[2].weight is twin[0].weight,
            twin[0].weight.requires_grad,
            [m.training for m in twin.modules()],
            list(twin.state_dict()),
            float(np.abs(np.asarray(net[0].weight.detach())).sum()) > 0,
            len(twin[0]._forward_hooks),
            {k: str(v.dtype).removeprefix("torch.") for k, v in twin.state_dict().items()},
        )

    same(scenario)


def doubled(module, args, out):
    return out * 2


def out_of(net, x):
    out = net(x)
    return np.asarray(out.detach() if isinstance(out, torch.Tensor) else out)


def test_a_copy_of_a_module_that_compiles_compiles_for_itself():
    class Net(fnn.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = fnn.nn.Linear(2, 2)
            self.run = fnn.jit(self.layer)

        def forward(self, x):
            return self.run(x)

    net, x = Net(), jnp.ones((1, 2))
    expected = net(x)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net.layer))):
        for p in twin.parameters():
            p.data.zero_()
        assert not np.any(twin(x))
    assert_close(net(x), expected)


def test_state_dicts_inside_a_compiled_function():
    net, other = fnn.nn.Linear(2, 1), fnn.nn.Linear(2, 1)

    @fnn.jit
    def swap(net, other):
        state = net.state_dict()
        net.load_state_dict({name: value * 2 for name, value in other.state_dict().items()})
        return state

    before = {name: np.asarray(value) for name, value in net.state_dict().items()}
    taken = swap(net, other)
    jax.tree.map(assert_close, dict(taken), before)
    assert_close(net.weight.value, other.weight.value * 2)


def test_batches_of_positional_state_dict_arguments_warn_once_a_call():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fnn.nn.Sequential(fnn.nn.Linear(1, 1), fnn.nn.Linear(1, 1)).state_dict(None, "x.")
    assert len(caught) == 1
