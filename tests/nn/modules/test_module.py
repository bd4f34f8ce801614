"""Module, with torch's as the oracle."""

import copy
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
import fnn.nn as nn

torch = pytest.importorskip("torch")


def build(lib, tensor):
    """The same class, written once, on either library."""

    class Block(lib.Module):
        def __init__(self, width):
            super().__init__()
            self.norm = lib.BatchNorm1d(width)
            self.linear = lib.Linear(width, width)
            self.scale = lib.Parameter(tensor(np.ones(1, np.float32)))

        def forward(self, x):
            return self.linear(self.norm(x)) * self.scale

    class Net(lib.Module):
        def __init__(self):
            super().__init__()
            self.blocks = lib.ModuleList([Block(4) for _ in range(3)])
            self.heads = lib.ModuleDict(
                {"a": lib.Linear(4, 2), "b": lib.Sequential(OrderedDict(act=lib.ReLU(), out=lib.Linear(4, 1)))}
            )
            self.register_buffer("mask", tensor(np.ones(4, np.float32)))
            self.register_buffer("hidden", tensor(np.zeros(2, np.float32)), persistent=False)
            self.register_buffer("nothing", None)
            self.register_parameter("no_bias", None)
            self.shared = self.heads["a"]
            self.heads["b"].out.bias = lib.Parameter(tensor(np.zeros(1, np.float32)))
            self.alias = self.blocks[0].scale
            self.vectors = lib.ParameterList([tensor(np.ones(2, np.float32)), tensor(np.ones(3, np.float32))])

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.heads["a"](x * self.mask) + self.heads["b"](x)

    return Net()


@pytest.fixture
def pair():
    theirs = build(torch.nn, torch.tensor)
    ours = build(nn, jnp.asarray)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def names(pairs):
    return [name for name, _ in pairs]


@pytest.mark.parametrize(
    "look",
    [
        lambda net: names(net.named_parameters()),
        lambda net: names(net.named_parameters(prefix="p", recurse=False)),
        lambda net: names(net.named_parameters(remove_duplicate=False)),
        lambda net: names(net.named_buffers()),
        lambda net: names(net.named_buffers(recurse=False)),
        lambda net: names(net.named_modules()),
        lambda net: names(net.named_modules(prefix="m", remove_duplicate=False)),
        lambda net: names(net.named_children()),
        lambda net: [type(m).__name__ for m in net.children()],
        lambda net: [type(m).__name__ for m in net.modules()],
        lambda net: [tuple(p.shape) for p in net.parameters()],
        lambda net: [tuple(b.shape) for b in net.buffers()],
        lambda net: list(net.state_dict()),
        lambda net: list(net.state_dict(prefix="x.")),
        lambda net: {name: dict(data) for name, data in net.state_dict()._metadata.items()},
        lambda net: [type(net.get_submodule(n)).__name__ for n in ("", "blocks.1.norm", "heads.b.out")],
        lambda net: [m.training for m in net.eval().modules()],
        lambda net: [m.training for m in net.train().modules()],
        lambda net: [str(v.dtype).removeprefix("torch.") for v in net.state_dict().values()],
        lambda net: net.no_bias is net.nothing is None,
    ],
)
def test_iteration_and_names_as_in_torch(pair, look):
    ours, theirs = pair
    assert look(ours) == look(theirs)


def test_print_as_in_torch(pair):
    ours, theirs = pair
    mine, yours = str(ours).split("(vectors)")[0], str(theirs).split("(vectors)")[0]
    assert mine == yours


def test_forward_gradients_and_statistics_as_in_torch(pair):
    ours, theirs = pair
    out = theirs(torch.tensor(X))
    out.square().sum().backward()
    loss, grads = fnn.value_and_grad(lambda net: (net(X) ** 2).sum())(ours)
    np.testing.assert_allclose(loss, out.square().sum().item(), rtol=1e-4)
    flat = fnn.tree.unnest(grads)
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            np.testing.assert_allclose(flat[name], parameter.grad.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], value.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_apply_visits_in_torchs_order(pair):
    ours, theirs = pair
    order = {}
    for key, net in (("ours", ours), ("theirs", theirs)):
        order[key] = []
        assert net.apply(lambda m, key=key: order[key].append(type(m).__name__)) is net
    assert order["ours"] == order["theirs"]


def test_state_dict_round_trip_from_everything(pair):
    ours, theirs = pair
    values = {name: value.numpy() for name, value in theirs.state_dict().items()}
    for convert in (np.asarray, jnp.asarray, torch.tensor, lambda v: torch.tensor(v, requires_grad=v.dtype.kind == "f")):
        net = build(nn, jnp.asarray)
        assert str(net.load_state_dict({k: convert(v) for k, v in values.items()})) == "<All keys matched successfully>"
        for name, value in values.items():
            np.testing.assert_array_equal(net.state_dict()[name], value)
    half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in theirs.state_dict().items()}
    ours.load_state_dict(half)
    assert ours.mask.dtype == np.float32
    np.testing.assert_array_equal(ours.blocks[0].linear.weight, half["blocks.0.linear.weight"].float().numpy())
    transposed = {**values, "blocks.0.linear.weight": torch.tensor(values["blocks.0.linear.weight"].T).T}
    ours.load_state_dict(transposed)
    np.testing.assert_array_equal(ours.blocks[0].linear.weight, values["blocks.0.linear.weight"])
    ours.load_state_dict(half, assign=True)
    assert ours.mask.dtype == jnp.bfloat16


def test_load_state_dict_lists_everything_at_once_and_changes_nothing(pair):
    ours, theirs = pair
    before = ours.state_dict()
    state = {name: value + 1 for name, value in theirs.state_dict().items()}
    del state["blocks.1.linear.weight"], state["mask"]
    state["more"] = state["blocks.0.norm.deeper"] = torch.zeros(1)
    state["heads.a.bias"] = torch.zeros(7)
    state["blocks.2.scale"] = "text"
    messages = {}
    for key, net in (("ours", ours), ("theirs", theirs)):
        with pytest.raises(RuntimeError) as caught:
            net.load_state_dict(state)
        messages[key] = str(caught.value)
    for text in (
        'Missing key(s) in state_dict: "mask", "blocks.1.linear.weight". ',
        'Unexpected key(s) in state_dict: "more", "blocks.0.norm.deeper". ',
        "Error(s) in loading state_dict for Net:",
        "size mismatch for heads.a.bias: copying a param with shape",
    ):
        assert text in messages["ours"]
        assert text in messages["theirs"]
    assert "expected an array" in messages["ours"]
    for name, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    good = {name: value for name, value in state.items() if name not in ("heads.a.bias", "shared.bias", "blocks.2.scale")}
    mine, yours = ours.load_state_dict(good, strict=False), theirs.load_state_dict(good, strict=False)
    assert (mine.missing_keys, mine.unexpected_keys) == (yours.missing_keys, yours.unexpected_keys)
    with pytest.raises(TypeError, match="dict-like"):
        ours.load_state_dict([1])


def test_an_override_of_load_from_state_dict_is_called():
    class Renaming(nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
            assert local_metadata == {"version": 1}
            state_dict[prefix + "weight"] = state_dict.pop(prefix + "kernel").T
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    net = nn.Sequential(Renaming(2, 3))
    state = torch.nn.Sequential(torch.nn.Linear(2, 3)).state_dict()
    state["0.kernel"] = state.pop("0.weight").T
    net.load_state_dict(state)
    np.testing.assert_array_equal(net[0].weight, state["0.kernel"].T.numpy())


def test_a_counter_that_old_checkpoints_lack():
    state = torch.nn.BatchNorm1d(3).state_dict()
    del state["num_batches_tracked"], state._metadata[""]["version"]
    nn.BatchNorm1d(3).load_state_dict(state)


MISTAKES = [
    (lambda net, lib, t: setattr(net, "scale", t(np.ones(1, np.float32))), TypeError, "as parameter 'scale'"),
    (lambda net, lib, t: setattr(net, "linear", 3), TypeError, "as child module 'linear'"),
    (lambda net, lib, t: net.register_parameter("a.b", None), KeyError, 'parameter name can\'t contain "."'),
    (lambda net, lib, t: net.register_parameter("", None), KeyError, "can't be empty string"),
    (lambda net, lib, t: net.register_buffer("linear", None), KeyError, "attribute 'linear' already exists"),
    (lambda net, lib, t: net.register_parameter("p", 3), TypeError, "to parameter 'p'"),
    (lambda net, lib, t: net.add_module("m", 3), TypeError, "is not a Module subclass"),
    (lambda net, lib, t: net.add_module("m.n", lib.ReLU()), KeyError, 'module name can\'t contain "."'),
    (lambda net, lib, t: net.missing, AttributeError, "object has no attribute 'missing'"),
    (lambda net, lib, t: net.get_submodule("linear.deep"), AttributeError, "`deep`"),
    (lambda net, lib, t: net.train("yes"), ValueError, "training mode is expected to be boolean"),
    (lambda net, lib, t: delattr(net, "missing"), AttributeError, "missing"),
    (lambda net, lib, t: lib.Module()(1), NotImplementedError, 'missing the required "forward" function'),
]


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_mistakes_are_torchs_errors(pair, number):
    mistake, error, message = MISTAKES[number]
    for net, lib, tensor in ((pair[0], nn, jnp.asarray), (pair[1], torch.nn, torch.tensor)):
        with pytest.raises(error) as caught:
            mistake(net.blocks[0], lib, tensor)
        assert message in caught.value.args[0]


@pytest.mark.parametrize("lib", [nn, torch.nn], ids=["fnn", "torch"])
@pytest.mark.parametrize("kind", ["module", "parameter"])
def test_a_module_used_before_its_init(lib, kind):
    class Early(lib.Module):
        def __init__(self):
            self.child = lib.ReLU() if kind == "module" else lib.Parameter(torch.ones(1) if lib is torch.nn else jnp.ones(1))

    with pytest.raises(AttributeError, match=r"cannot assign (module|parameters?) before Module.__init__\(\) call"):
        Early()


@pytest.mark.parametrize(
    "use", [lambda net: net(X), print, lambda net: list(net.parameters()), lambda net: net.eval(), fnn.pure]
)
def test_a_module_whose_init_never_called_that_of_module(use):
    class Forgetful(nn.Module):
        def __init__(self):
            self.width = 3

        def forward(self, x):
            return x

    with pytest.raises(AttributeError, match=r"used before super\(\).__init__\(\) was called"):
        use(Forgetful())


@pytest.mark.parametrize("lib", [nn, torch.nn], ids=["fnn", "torch"])
def test_attributes_take_each_others_place(lib):
    tensor = torch.ones if lib is torch.nn else jnp.ones
    net = lib.Module()
    net.a = 1
    net.a = lib.Parameter(tensor(2))
    assert names(net.named_parameters()) == ["a"]
    with pytest.raises(TypeError, match="as parameter 'a'"):
        net.a = lib.ReLU()
    del net.a
    net.a = 1
    net.a = lib.ReLU()
    assert (names(net.named_parameters()), names(net.named_children())) == ([], ["a"])
    with pytest.raises(TypeError, match="as child module 'a'"):
        net.a = lib.Buffer(tensor(2))
    del net.a
    net.a = lib.Buffer(tensor(2), persistent=False)
    assert (names(net.named_buffers()), list(net.state_dict())) == (["a"], [])
    net.a = tensor(2) * 3
    assert names(net.named_buffers()) == ["a"]
    assert net.a.sum() == 6
    net.a = None
    assert names(net.named_buffers()) == []
    del net.a
    assert not hasattr(net, "a")


def test_conversion():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert net.to(jnp.bfloat16) is net
    assert {str(v.dtype) for v in net.state_dict().values()} == {"bfloat16", "int64"}
    assert net.half()[0].weight.dtype == jnp.float16
    assert net.float()[0].weight.dtype == jnp.float32
    assert net.to(jnp.ones(1, jnp.float16))[0].weight.dtype == jnp.float16
    assert net.to("cpu", jnp.float32)[0].weight.dtype == jnp.float32
    with pytest.raises(TypeError, match="x64"):
        net.double()
    with pytest.raises(TypeError, match="only accepts floating point or complex dtypes"):
        net.to(jnp.int32)
    with pytest.raises(RuntimeError, match=r"no device 'gpu:7'"):
        nn.Linear(2, 2).to("gpu:7").weight.value  # noqa: B018
    mesh = jax.make_mesh((1,), ("i",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    assert net.to(sharding)[0].weight.value.sharding == sharding
    lazy = nn.Linear(10**5, 10**6).to(jnp.bfloat16)
    assert lazy.weight.dtype == jnp.bfloat16
    assert lazy.weight._value is None


def test_requires_grad_and_zero_grad(pair):
    ours, _ = pair
    assert ours.requires_grad_(False) is ours
    assert not any(p.requires_grad for p in ours.parameters())
    ours.requires_grad_()
    fnn.backward(lambda net: net(X).sum(), ours)
    assert ours.mask is not None
    ours.zero_grad()
    assert all(p.grad is None for p in ours.parameters())


def test_forward_hooks_as_in_torch():
    trace = {}
    for key, lib, tensor in (("ours", nn, jnp.asarray), ("theirs", torch.nn, torch.tensor)):
        seen = trace[key] = []
        net = lib.Linear(2, 2)
        net.weight.data.fill_(1.0)
        net.bias.data.fill_(0.0)
        x = tensor(np.ones((1, 2), np.float32))
        handles = [
            net.register_forward_pre_hook(lambda m, args, s=seen: s.append("pre")),
            net.register_forward_pre_hook(lambda m, args, s=seen: (s.append("pre first"), (args[0] * 2,))[1], prepend=True),
            net.register_forward_pre_hook(lambda m, a, k, s=seen: (s.append(sorted(k)), (a, {}))[1], with_kwargs=True),
            net.register_forward_hook(lambda m, args, out, s=seen: s.append(("post", float(out.sum())))),
            net.register_forward_hook(lambda m, args, out: out + 1),
            net.register_forward_hook(lambda m, a, k, out, s=seen: s.append((sorted(k), float(out.sum()))), with_kwargs=True),
            net.register_forward_hook(lambda m, args, out, s=seen: s.append(("always", out is None)), always_call=True),
        ]
        seen.append(float(net(x, unused=1).sum() if key == "never" else net(x).sum()))
        with pytest.raises((RuntimeError, TypeError)):
            net(tensor(np.ones((1, 3), np.float32)))
        for handle in handles:
            handle.remove()
            handle.remove()
        with net.register_forward_hook(lambda m, args, out: out * 0):
            seen.append(float(net(x).sum()))
        seen.append(float(net(x).sum()))
    assert trace["ours"] == trace["theirs"]


def test_errors_in_a_model_name_the_place():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Linear(5, 2)))

        def forward(self, x):
            return self.body(x)

    net = Net()
    runs = [
        lambda: net(X),
        lambda: fnn.jit(net)(X),
        lambda: fnn.grad(lambda net: net(X).sum())(net),
        lambda: fnn.pure(net).apply(fnn.split(net)[0], X),
    ]
    for run in runs:
        with pytest.raises(RuntimeError, match=r"expected an input of shape \(\*, 5\).*got \(5, 3\)") as caught:
            run()
        notes = [note for note in caught.value.__notes__ if "Linear" in note]
        assert notes == ["in body.1.1: Linear(in_features=5, out_features=2, bias=True), of Net"]


def test_deepcopy_is_independent(pair):
    ours, _ = pair
    twin = copy.deepcopy(ours)
    assert twin.shared is twin.heads["a"]
    assert twin.alias is twin.blocks[0].scale
    before = np.asarray(ours.blocks[0].linear.weight)
    twin.blocks[0].linear.weight.data.zero_()
    twin.eval()
    np.testing.assert_array_equal(ours.blocks[0].linear.weight, before)
    assert ours.training
    np.testing.assert_allclose(ours.eval()(X).shape, twin(X).shape)


def test_reset_parameters_is_virtual():
    class Ones(nn.Linear):
        def reset_parameters(self):
            self.weight.data.fill_(1.0)
            nn.init.zeros_(self.bias)

    np.testing.assert_array_equal(Ones(2, 2)(jnp.ones(2)), [2.0, 2.0])
    fnn.pure(Ones(2, 2)).init(0)
    np.testing.assert_array_equal(fnn.pure(Ones(2, 2)).init(0)[0]["weight"], np.ones((2, 2)))


def test_only_names_of_torch_are_taken():
    names = {name for name in set(dir(nn.Module)) - set(dir(torch.nn.Module)) if not name.startswith("_")}
    assert names == {"training"}  # which torch has on the instance

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells = nn.LSTM(2, 3)

        def forward(self, x):
            return self.cells(x)[0]

    assert fnn.jit(Net())(jnp.ones((4, 2))).shape == (4, 3)


def test_declared_names_are_no_attributes_of_the_class_and_can_be_overridden():
    class Doubled(nn.Linear):
        @property
        def weight(self):
            return self._parameters["weight"].value * 2

    linear = nn.Linear(2, 1, bias=False)
    assert not hasattr(nn.Linear, "weight")
    linear._parameters["weight"].data = jnp.ones((1, 2))
    linear.__class__ = Doubled
    assert linear(jnp.ones(2)).item() == 4
    linear.__class__ = nn.Linear
    del linear.weight
    with pytest.raises(AttributeError, match="'Linear' object has no attribute 'weight'"):
        _ = linear.weight
    linear.weight = 2 * jnp.ones((1, 2))
    assert linear(jnp.ones(2)).item() == 4
    assert "weight" not in linear.state_dict()
