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


def test_a_prefix_is_taken_off_as_torch_takes_it_off():
    consume = torch.nn.modules.utils.consume_prefix_in_state_dict_if_present
    state = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Sequential(torch.nn.Linear(2, 1))).state_dict(
        prefix="module."
    )
    net, other, seen = *(fnn.nn.Sequential(fnn.nn.BatchNorm1d(2), fnn.nn.Sequential(fnn.nn.Linear(2, 1))) for _ in range(2)), []
    for part in (*net.modules(), *other.modules()):
        part._register_load_state_dict_pre_hook(lambda state, prefix, meta, *_: seen.append((prefix, meta.get("version"))))
    assert not any(map(len, net.load_state_dict(state, prefix="module.")))
    consumed = state.copy()
    consumed._metadata = copy.copy(state._metadata)
    consume(consumed, "module.")
    other.load_state_dict(consumed)
    assert values(net.state_dict()) == values(other.state_dict())
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    net.load_state_dict(consumed, prefix="module.")  # names without it stay


@pytest.mark.parametrize(
    "rename",
    [
        {r"^backbone\.": "", r"^layer(\d+)\.": r"\1.", "gamma$": "weight", "beta$": "bias"},
        lambda name: name.replace("backbone.layer", "").replace("gamma", "weight").replace("beta", "bias"),
    ],
)
def test_names_are_changed_by_patterns_or_a_function(rename):
    net = fnn.nn.Sequential(fnn.nn.LayerNorm(2), fnn.nn.Linear(2, 1))
    state = {
        "module.backbone.layer0.gamma": ONES * 3,
        "module.backbone.layer0.beta": ONES * 4,
        "module.backbone.layer1.weight": ONES[None] * 5,
        "module.backbone.layer1.bias": ONES[:1] * 6,
    }
    net.load_state_dict(state, prefix="module.", rename=rename)
    assert values(net.state_dict()) == {"0.weight": [3, 3], "0.bias": [4, 4], "1.weight": [[5, 5]], "1.bias": [6]}


def test_versions_of_modules_follow_their_names():
    net, old = fnn.nn.Sequential(fnn.nn.BatchNorm1d(2)), torch.nn.ModuleDict({"norm": torch.nn.BatchNorm1d(2)}).state_dict()
    del old["norm.num_batches_tracked"]
    with pytest.raises(RuntimeError, match=r"Missing key.*0\.num_batches_tracked"):
        net.load_state_dict(old, rename={"^norm": "0"})
    old._metadata["norm"] = {"version": 1}  # when there was no such buffer
    net.load_state_dict(old, rename={"^norm": "0"})


def test_a_function_leaves_names_out():
    net, state = fnn.nn.Linear(2, 1), {"encoder.weight": ONES[None], "encoder.bias": ONES[:1], "head.weight": ONES}
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"head\.weight"'):
        net.load_state_dict(state, prefix="encoder.")
    net.load_state_dict(state, prefix="encoder.", rename=lambda name: None if name.startswith("head.") else name)


def test_names_that_become_one_are_listed():
    net = fnn.nn.Linear(2, 1)
    state = {"module.weight": ONES[None], "weight": ONES[None], "a.bias": ONES[:1], "b.bias": ONES[:1]}
    with pytest.raises(RuntimeError, match=r"module\.weight, weight become weight; a\.bias, b\.bias become bias"):
        net.load_state_dict(state, strict=False, prefix="module.", rename={r"^[ab]\.": ""})
    with pytest.raises(TypeError, match="rename is a mapping"):
        net.load_state_dict(state, rename="weight")


def dtype_of(module):
    return {name: value.dtype.name for name, value in module.state_dict().items()}


def test_lost_precision_is_said_once_a_call():
    net = fnn.nn.Sequential(fnn.nn.Linear(2, 1), fnn.nn.BatchNorm1d(1), fnn.nn.Linear(1, 2)).to(jnp.bfloat16)
    state = {name: value.astype(np.float32) + np.float32(0.1) for name, value in net.state_dict().items() if "num" not in name}
    state["2.bias"] = np.array([0.1, 0.2])
    state["1.num_batches_tracked"] = np.array(3)
    before = dtype_of(net)
    with pytest.warns(UserWarning, match=r"for Sequential: 7 from float32 to bfloat16 \('0\.weight', \.\.\.\)") as caught:
        net.load_state_dict(state)
    assert "; 1 from float64 to bfloat16 ('2.bias'). To keep them, convert the module first" in str(caught[0].message)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert dtype_of(net) == before
    theirs = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.BatchNorm1d(1), torch.nn.Linear(1, 2)).bfloat16()
    theirs.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    for name, value in theirs.state_dict().items():
        assert_close(net.state_dict()[name], value.float().to(torch.bfloat16) if value.is_floating_point() else value)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.array([0.1, np.nan, np.inf], jnp.bfloat16), "float32"),
        (np.array([0.5, np.nan, np.inf], np.float64), "float32"),
        (np.array([0.5, -0.0, 65504], np.float32), "float16"),
        (jnp.array([0.5, 1, 2]), "bfloat16"),
        (torch.tensor([0.5, 1, 2], dtype=torch.float64), "bfloat16"),
        (np.array([1, 2, 3]), "float32"),
        (np.array([1, 2, 3]), "int8"),
        (np.array([1.0, 2, 3]), "int32"),
        (np.array([True, False, True]), "float32"),
        (np.array([1.0, 2, 3], np.complex64), "float32"),
        ([0.1, 0.2, 0.3], "bfloat16"),  # Python numbers have no dtype
    ],
)
def test_nothing_is_said_where_values_stay_what_they_are(value, dtype):
    assert given(value, dtype) == []


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.array([1 + 1e-9]), "float32"),
        (jnp.array([1 + 1e-3]), "bfloat16"),
        (torch.tensor([1 + 1e-3]), "float16"),
        (np.array([2**24 + 1]), "float32"),
        (np.array([0.5]), "int32"),
        (np.array([2]), "bool"),
        (np.array([1j], np.complex64), "float32"),
        (np.array([1e-50]), "float32"),
    ],
)
def test_it_is_said_where_they_do_not(value, dtype):
    (told,) = given(value, dtype)
    assert f"to {dtype} ('value')" in told


def given(value, dtype):
    """What is warned of as a buffer of a dtype is given a value."""
    net = fnn.nn.Module()
    net.register_buffer("value", jnp.zeros(len(value), dtype))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net.load_state_dict({"value": value})
    assert dtype_of(net) == {"value": dtype}
    return [str(warning.message) for warning in caught if "Casting complex" not in str(warning.message)]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.array([1, 2**40]), "int32"),
        (np.array([-1]), "uint8"),
        (jnp.array([300]), "int8"),
        (torch.tensor([300]), "uint8"),
        (np.array([np.nan], np.float32), "int32"),
        (np.array([3e9]), "int32"),
        (np.array([1e300]), "float32"),
        (np.array([1e5], np.float32), "float16"),
        (jnp.array([1e5]), "float16"),
        (np.array([3.4e38], np.float32), "bfloat16"),
        (np.array([500], np.float32), "float8_e4m3fn"),
    ],
)
def test_values_out_of_range_are_errors(value, dtype):
    net = fnn.nn.Module()
    net.register_buffer("value", jnp.zeros(len(value), dtype))
    net.register_buffer("other", jnp.zeros(1))
    with pytest.raises(RuntimeError, match=r'the parameter named "value": .*(out of the range of|does not fit)'):
        net.load_state_dict({"value": value, "other": np.ones(1, np.float32)})
    assert net.other.item() == 0


def test_its_own_state_dict_is_taken_in_silence():
    net = fnn.nn.BatchNorm1d(2)
    net.register_buffer("wide", np.array([0.1]))
    assert dtype_of(net)["wide"] == "float64"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.load_state_dict(net.state_dict())
        fnn.jit(lambda state: net.load_state_dict(state) and None)(dict(net.state_dict()))
    with pytest.warns(UserWarning, match="To keep them, enable 64 bits"):
        net.load_state_dict({**net.state_dict(), "wide": np.array([0.1])})


def test_values_go_where_those_before_are_unless_they_say_where():
    net = fnn.nn.Linear(2, 1)
    place = jax.sharding.NamedSharding(jax.make_mesh((1,), ("d",)), jax.sharding.PartitionSpec())
    state = {name: np.asarray(value) for name, value in net.state_dict().items()}
    net.to(place).load_state_dict(state)
    assert net.weight.value.sharding == place
    device = jax.devices()[0]
    net.load_state_dict({name: jax.device_put(value, device) for name, value in state.items()})
    assert net.weight.value.sharding == jax.sharding.SingleDeviceSharding(device)


def test_a_state_dict_in_a_compiled_function_has_counters():
    net = fnn.nn.BatchNorm1d(3)
    state = fnn.jit(lambda net: dict(net.state_dict()))(net)
    assert state.keys() == net.state_dict().keys()
    assert state["num_batches_tracked"] == 0
