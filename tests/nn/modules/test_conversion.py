"""Conversions, devices, and what else a Module can be asked for, with torch's as the oracle."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracle import assert_close

import fnn

SIDES = ((torch.nn, torch.tensor), (fnn.nn, jnp.asarray))


def same(scenario):
    expected, got = (scenario(*side) for side in SIDES)
    assert got == expected
    return got


def dtypes(net):
    return {name: str(value.dtype).removeprefix("torch.") for name, value in net.state_dict().items()}


def test_conversions_of_dtypes():
    def scenario(nn, tensor):
        results = []
        for convert in (
            lambda net: net.half(),
            lambda net: net.bfloat16(),
            lambda net: net.half().float(),
            lambda net: net.to(torch.float16 if nn is torch.nn else jnp.float16),
            lambda net: net.to(tensor=tensor(np.ones(1, np.float16))),
            lambda net: net.to(memory_format=torch.channels_last),
            lambda net: net.type(torch.float16 if nn is torch.nn else jnp.float16),
        ):
            net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
            assert convert(net) is net
            results.append(dtypes(net))
        return results

    same(scenario)


@pytest.mark.filterwarnings("ignore:values of the state_dict lost precision")
def test_a_converted_layer_stays_so_when_values_come():
    def scenario(nn, tensor):
        net = nn.Linear(2, 2)
        net.load_state_dict(net.state_dict())
        net.half()
        net.load_state_dict(nn.Linear(2, 2).state_dict())
        return dtypes(net)

    same(scenario)
    assert fnn.pure(fnn.nn.Linear(2, 2).half()).init(0)[0]["weight"].dtype == jnp.float16


def test_users_override_apply_of_submodules():
    def scenario(nn, tensor):
        seen = []

        class Layer(nn.Linear):
            def _apply(self, fn, recurse=True):
                seen.append("asked")
                return super()._apply(fn)

        nn.Sequential(Layer(2, 2), nn.ReLU(), Layer(2, 2)).half()
        return seen

    same(scenario)


@pytest.mark.parametrize(
    "call",
    [
        lambda nn, net: net.get_submodule("0.1"),
        lambda nn, net: net.get_submodule("0.9"),
        lambda nn, net: net.get_submodule("0.0.weight"),
        lambda nn, net: net.get_submodule("7"),
        lambda nn, net: net.get_submodule(""),
        lambda nn, net: net.get_parameter("0.0.weight"),
        lambda nn, net: net.get_parameter("0.0"),
        lambda nn, net: net.get_parameter("0.0.nothing"),
        lambda nn, net: net.get_parameter("1.running_mean"),
        lambda nn, net: net.get_buffer("1.running_mean"),
        lambda nn, net: net.get_buffer("1.weight"),
        lambda nn, net: net.set_submodule("0.1", nn.Tanh()),
        lambda nn, net: net.set_submodule("0.new", nn.Tanh()),
        lambda nn, net: net.set_submodule("0.new", nn.Tanh(), strict=True),
        lambda nn, net: net.set_submodule("0.0.weight", nn.Tanh()),
        lambda nn, net: net.set_submodule("", nn.Tanh()),
        lambda nn, net: net.set_submodule("0", 3),
        lambda nn, net: net.set_submodule("9.1", nn.Tanh()),
        lambda nn, net: net.register_module("extra", nn.Tanh()),
        lambda nn, net: net.register_module("a.b", nn.Tanh()),
        lambda nn, net: net.register_module("training", nn.Tanh()),
        lambda nn, net: type(net)(1, keyword=2),
        lambda nn, net: nn.Module(1),
        lambda nn, net: nn.Module(keyword=1),
        lambda nn, net: net.share_memory() if nn is fnn.nn else (_ for _ in ()).throw(NotImplementedError),
        lambda nn, net: net.to(torch.int32 if nn is torch.nn else jnp.int32),
    ],
)
def test_looking_up_and_replacing_by_dotted_name(call):
    def scenario(nn, tensor):
        net = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.BatchNorm1d(2))
        try:
            result = call(nn, net)
        except Exception as error:
            result = type(error)
        kind = result if isinstance(result, type) else type(result).__name__.replace("Tensor", "Buffer")
        return kind, repr(net), [name for name, _ in net.named_modules()]

    same(scenario)


def test_registration_and_deletion_of_buffers():
    def scenario(nn, tensor):
        net = nn.Module()
        net.a = nn.Buffer(tensor(np.ones(2, np.float32)), persistent=False)
        net.register_buffer("b", None)
        net.b = tensor(np.ones(1, np.float32))
        first = list(net.state_dict())
        net.a = nn.Buffer(tensor(np.zeros(3, np.float32)))
        second = list(net.state_dict())
        net.a = None
        third = list(net.state_dict())
        del net.b
        return first, second, third, [name for name, _ in net.named_buffers()], sorted(net._non_persistent_buffers_set)

    same(scenario)


def test_to_empty_and_meta():
    def scenario(nn, tensor):
        net = nn.Sequential(nn.Linear(2, 3, device="meta"), nn.BatchNorm1d(3, device="meta"))
        meta = [p.is_meta for p in net.parameters()], [tuple(p.shape) for p in net.parameters()]
        for call in (lambda: net.to("cpu"), lambda: net[0].weight + 1 if nn is fnn.nn else net[0].weight.numpy()):
            with pytest.raises((NotImplementedError, TypeError)):
                call()
        net.half().float()
        still = [p.is_meta for p in net.parameters()]
        assert net.to_empty(device="cpu") is net
        empty = [p.is_meta for p in net.parameters()]
        net[0].reset_parameters()
        net.to("meta")
        real = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        net.load_state_dict(real.state_dict(), assign=True)
        x = tensor(np.ones((4, 2), np.float32))
        net.eval(), real.eval()
        return meta, still, empty, bool((net(x) == real(x)).all()), dtypes(net)

    same(scenario)


def test_a_meta_module_has_the_shapes_for_everything_that_computes_nothing():
    net = fnn.nn.Linear(2, 3).to("meta")
    init, apply = fnn.pure(net)
    params, _ = init(0)
    assert apply(params, jnp.ones((1, 2))).shape == (1, 3)
    assert jax.eval_shape(init, jax.random.key(0))[0]["weight"].shape == (3, 2)
    assert net.state_dict()["weight"] == jax.ShapeDtypeStruct((3, 2), jnp.float32)
    for call in (lambda: net(jnp.ones(2)), lambda: fnn.jit(net)(jnp.ones(2)), lambda: fnn.split(net)):
        with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor; no data"):
            call()


@pytest.mark.parametrize("name", ["share_memory", "xpu", "ipu", "mtia"])
def test_what_means_nothing_here_says_so(name):
    with pytest.raises(NotImplementedError, match=r"JAX"):
        getattr(fnn.nn.Linear(2, 2), name)()


def test_devices_by_name():
    net = fnn.nn.Linear(2, 2)
    assert net.cpu() is net
    assert net.weight.value.devices() == {jax.devices("cpu")[0]}
    if all(device.platform == "cpu" for device in jax.devices()):
        with pytest.raises(RuntimeError, match="no device 'cuda:0' here"):
            net.cuda()
        with pytest.raises(RuntimeError, match="no device 'cuda:3' here"):
            net.cuda(3)


def test_compile_compiles_calls_and_takes_any_argument():
    traces = itertools.count()

    class Net(fnn.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = fnn.nn.Linear(2, 2)

        def forward(self, x, scale=1.0, *, double=False, mask=None, name="a"):
            next(traces)
            out = self.layer(x) * scale
            return {name: out * 2 if double else out, "mask": mask}

    net, x = Net(), jnp.ones((3, 2))
    expected = net(x, 3.0, double=True, name="y")["y"]
    net.compile(mode="max-autotune", fullgraph=True)
    assert net._compiled_call_impl is not None
    for _ in range(3):
        assert_close(net(x, 3.0, double=True, name="y")["y"], expected)
    assert next(traces) == 2
    assert net(x, mask=[x, None])["mask"][1] is None
    net.layer.weight.data.zero_()
    net.layer.bias.data.zero_()
    assert not np.any(net(x, 3.0, double=True, name="y")["y"])
    grads = fnn.grad(lambda net: net(x)["a"].sum())(net)
    assert_close(grads["layer"]["bias"], np.full(2, 3, np.float32))
    net.compile(disable=True)
    assert net._compiled_call_impl is None


def test_modules_with_other_bases_call_their_constructors():
    def scenario(nn, tensor):
        class Mixin:
            def __init__(self, *args, name="none", **kwargs):
                self.args, self.name = args, name

        class Net(nn.Module, Mixin):
            call_super_init = True

        net = Net(1, 2, name="net")
        return net.args, net.name

    same(scenario)


def test_in_place_methods_of_parameters():
    def scenario(nn, tensor):
        results = []
        start, other = np.arange(1, 5, dtype=np.float32), np.full(4, 2.0, np.float32)
        for change in (
            lambda p, o: p.add_(o),
            lambda p, o: p.add_(o, alpha=0.5),
            lambda p, o: p.sub_(o, alpha=2),
            lambda p, o: p.mul_(3).add_(1),
            lambda p, o: p.div_(o),
            lambda p, o: p.pow_(2),
            lambda p, o: p.clamp_(2, 3),
            lambda p, o: p.clamp_(min=2),
            lambda p, o: p.clamp_(max=2),
            lambda p, o: p.lerp_(o, 0.25),
            lambda p, o: p.addcmul_(o, o, value=0.5),
            lambda p, o: p.addcdiv_(o, o, value=0.5),
            lambda p, o: p.masked_fill_(o > 1, 7.0),
            lambda p, o: p.copy_(o),
            lambda p, o: p.zero_(),
            lambda p, o: p.fill_(4),
        ):
            parameter = nn.Parameter(tensor(start.copy()))
            assert change(parameter.data, tensor(other)) is not None
            results.append(np.asarray(parameter.detach()).tolist())
        return results

    same(scenario)


def test_what_a_parameter_says_of_itself():
    def scenario(nn, tensor):
        p = nn.Linear(3, 2).weight
        return (
            tuple(p.size()),
            p.size(0),
            p.size(-1),
            p.numel(),
            p.dim(),
            p.element_size(),
            p.is_floating_point(),
            p.is_complex(),
        )

    same(scenario)
    p = fnn.nn.Linear(3, 2).weight
    assert p.size == p.value.size == jnp.size(p) == 6


def test_a_buffer_takes_no_name_that_means_something_else():
    def scenario(nn, tensor):
        layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        for name in ("weight", "forward"):
            with pytest.raises(KeyError, match="already exists"):
                setattr(layer, name, nn.Buffer(tensor(np.ones(2, np.float32))))
        return [name for name, _ in layer.named_buffers()]

    same(scenario)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda nn, tensor: setattr(nn.BatchNorm1d(3), "running_mean", 3),
        lambda nn, tensor: setattr(nn.BatchNorm1d(3), "num_batches_tracked", 0),
        lambda nn, tensor: setattr(nn.BatchNorm1d(3), "running_mean", [1.0]),
        lambda nn, tensor: setattr(nn.Linear(2, 2).weight, "grad", tensor(np.ones(7, np.float32))),
        lambda nn, tensor: nn.Linear(2, 2).to("nowhere"),
    ],
)
def test_what_torch_refuses_is_refused(mistake):
    def scenario(nn, tensor):
        with pytest.raises((TypeError, RuntimeError)) as caught:
            mistake(nn, tensor)
        return caught.type

    same(scenario)


def test_what_a_compiled_module_cannot_take():
    net = fnn.nn.Identity()
    net.compile()
    with pytest.raises(TypeError, match="cannot take a set"):
        net({1, 2})
