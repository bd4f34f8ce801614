"""fnn.summary: numbers by hand, by torch and by XLA's analysis of the whole."""

import copy
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import torch

import fnn
import fnn.nn as nn


def flops(net, *shapes, training=False):
    """What XLA says of the whole model."""
    layer = fnn.pure(net)
    params, state = jax.eval_shape(layer.init, jax.random.key(0))
    call = lambda p, s, *xs: layer.apply(p, *xs, state=s, training=training)  # noqa: E731
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(call).lower(params, state, *inputs).cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("net", "shape", "operations"),
    [
        (nn.Linear(5, 7, bias=False), (3, 5), 2 * 3 * 7 * 5),
        (nn.Linear(5, 7), (3, 5), 2 * 3 * 7 * 5 + 3 * 7),
        (nn.Conv2d(3, 8, 3, bias=False), (2, 3, 9, 9), 2 * (2 * 7 * 7) * 8 * (3 * 3 * 3)),
        (nn.Conv2d(4, 8, 3, groups=2, stride=2), (1, 4, 9, 9), 2 * (4 * 4) * 8 * (2 * 3 * 3) + 8 * 4 * 4),
        (nn.Conv1d(2, 3, 2, dilation=2), (1, 2, 10), 2 * 8 * 3 * (2 * 2) + 3 * 8),
    ],
)
def test_operations_are_those_of_the_formula(net, shape, operations):
    result = fnn.summary(net, shape)
    assert result.total_operations == result.rows[0].operations == operations


def test_rows_add_up_to_what_xla_says_of_the_whole():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3), nn.LogSoftmax(1)
    )
    result = fnn.summary(net, (2, 1, 8, 8))
    with fnn.plain_kernels():
        assert result.total_operations == flops(net, (2, 1, 8, 8))
    assert result.total_operations == sum(row.operations for row in result.rows[1:])
    assert [row.output.shape for row in result.rows] == [
        (2, 3), (2, 2, 8, 8), (2, 2, 8, 8), (2, 2, 4, 4), (2, 32), (2, 3), (2, 3),
    ]  # fmt: skip


def test_parameters_and_memory_are_those_of_torch():
    make = lambda nn: nn.Sequential(  # noqa: E731
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 6, bias=False)), nn.LSTM(6, 3)
    )
    ours, theirs = make(nn), make(torch.nn)
    for net in (ours, theirs):
        net[0].requires_grad_(False)
        net[2][0].bias.requires_grad = False
    result = fnn.summary(ours)
    assert result.total_parameters == sum(p.numel() for p in theirs.parameters())
    assert result.trainable_parameters == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert result.total_operations is None
    for path, module in theirs.named_modules():
        own = list(module.parameters(recurse=False))
        assert result[path].parameters == sum(p.numel() for p in own)
        assert result[path].parameter_bytes == sum(p.nbytes for p in own)
        assert result[path].type == type(module).__name__
    assert result["1"].buffer_bytes == 2 * 4 * 4 + 4  # the count of batches has 32 bits here
    assert result.total_bytes == result.parameter_bytes + result.buffer_bytes
    with pytest.raises(KeyError):
        result["9"]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embed.weight
        self.unused = nn.Linear(4, 4)
        self.same = self.block

    def forward(self, tokens, times=2, mask=None, scale=1.0):
        x = self.embed(tokens)
        for _ in range(times):
            x = self.block(x)
        if mask is not None:
            x = x * mask
        return {"logits": self.head(x), "hidden": (x, None, "x")}


def test_shared_parameters_count_once_and_repeated_calls_are_shown():
    result = fnn.summary(Recurrent(), jax.ShapeDtypeStruct((2, 7), int))
    assert result.total_parameters == 44 + 2 * 20
    assert (result["head"].parameters, result["head"].shared) == (0, 44)
    assert (result["block"].calls, result["block.0"].calls, result["unused"].calls) == (2, 2, 0)
    assert result["block.0"].operations == 2 * (2 * 14 * 4 * 4 + 14 * 4)
    assert result["unused"].operations == 0
    assert result["unused"].output is None
    output = result.rows[0].output
    assert output["logits"].shape == (2, 7, 11)
    assert output["hidden"][0].shape == (2, 7, 4)
    assert result.rows[0].output_bytes == 4 * (14 * 11 + 14 * 4)
    text = str(result)
    for part in ("(2, 7, 4) x2", "not called", "0 (+44 shared)", "{hidden: ((2, 7, 4), None, str), logits: (2, 7, 11)}"):
        assert part in text
    assert [row.path for row in result.rows] == [name for name, _ in Recurrent().named_modules()]


def test_keyword_arguments_and_python_values_reach_forward():
    tokens = np.zeros((2, 7), np.int64)
    result = fnn.summary(Recurrent(), tokens, 3, mask=jax.ShapeDtypeStruct((2, 7, 1), jnp.float32), scale=2.0)
    assert result["block"].calls == 3
    assert result.total_operations > 0
    bilinear = fnn.summary(nn.Bilinear(2, 3, 4), (5, 2), jnp.ones((5, 3)))
    assert bilinear.rows[0].output.shape == (5, 4)
    wrapped = nn.Module()
    wrapped.forward = lambda inputs: inputs["a"] @ inputs["b"][0]
    given = {"a": torch.ones(2, 3), "b": [jax.ShapeDtypeStruct((3, 5), jnp.float32)]}
    assert fnn.summary(wrapped, given).total_operations == 2 * 2 * 3 * 5


def test_a_table_cut_off_at_a_depth_adds_up():
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2).requires_grad_(False))
    result = fnn.summary(net, (2, 3), depth=1)
    assert len(result.rows) == 5
    lines = str(result).splitlines()
    assert lines[2].split() == ["0", "Sequential", "(2,", "4)", "24", "132", "B", "32", "B", str(result["0"].operations)]
    assert "10 (frozen)" in lines[3]
    assert len([line for line in lines if "Linear" in line]) == 1
    assert "parameters: 34 (24 trainable, 10 frozen), 136 B" in lines


def test_a_scan_counts_for_each_of_its_steps():
    long, short = (fnn.summary(nn.LSTM(3, 4), (steps, 2, 3)).total_operations for steps in (40, 20))
    assert 1.9 < long / short < 2.1
    gates = 2 * 20 * 2 * 16 * (3 + 4)
    assert gates < short < 2 * gates


def test_layers_that_are_scanned_or_checkpointed_are_shown_one_by_one():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.last = nn.Linear(4, 4)

        def forward(self, x):
            return jax.vmap(fnn.checkpoint(self.last))(fnn.scan_layers(self.layers, x))

    result = fnn.summary(Deep(), (2, 4))
    linear = 2 * 2 * 4 * 4 + 8
    assert [row.operations for row in result.rows] == [4 * linear, 0, linear, linear, linear, linear]


def test_lazy_modules_are_shown_settled_and_stay_lazy():
    net = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    before = repr(net)
    result = fnn.summary(net, (2, 3))
    assert (result["0"].type, result["0"].parameters, result["1"].parameters) == ("Linear", 16, 8)
    assert repr(net) == before
    assert fnn.summary(net).total_parameters == 0


def test_seven_billion_parameters_allocate_nothing():
    start = time.perf_counter()
    net = nn.Sequential(*(nn.Linear(14_800, 14_800) for _ in range(32)))
    live = len(jax.live_arrays())
    result = fnn.summary(net, (8, 2048, 14_800))
    assert result.total_parameters == 32 * (14_800**2 + 14_800)
    assert result.total_operations == 32 * (2 * 8 * 2048 * 14_800**2 + 8 * 2048 * 14_800)
    assert len(jax.live_arrays()) == live
    assert all(p._value is None for p in net.parameters())
    assert time.perf_counter() - start < 20
    assert "26.11 GiB" in str(result)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_in_the_module_changes(training, fails):
    class Net(nn.Sequential):
        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(x)

    net = Net(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(5 if fails else 4, 2))
    net[0].eval()
    modes = [module.training for module in net.modules()]
    state = jax.tree.map(np.asarray, dict(net.state_dict()))
    attributes = {name: copy.copy(value) for name, value in vars(net).items()}
    drawn = fnn.manual_seed(0).get_state()
    if fails:
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            fnn.summary(net, (2, 3), training=training)
    else:
        result = fnn.summary(net, (2, 3), training=training)
        assert (result["2"].operations > 0) == training
    assert [module.training for module in net.modules()] == modes
    jax.tree.map(np.testing.assert_array_equal, dict(net.state_dict()), state)
    assert vars(net) == attributes
    assert not any(value for module in net.modules() for key, value in vars(module).items() if key.endswith("_hooks"))
    assert fnn.random.default_generator.get_state() == drawn
    names = str(jax.make_jaxpr(lambda x: x + 1)(1.0).eqns[0].source_info.name_stack)
    assert names == ""


def test_hooks_run_and_count():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    net[0].register_forward_hook(lambda module, args, out: out[:, :2])
    result = fnn.summary(net, (5, 3))
    assert result["0"].output.shape == (5, 2)
    assert result.rows[0].output.shape == (5, 2)


def test_a_large_convolutional_net_takes_seconds():
    def block(i, o):
        return nn.Sequential(nn.Conv2d(i, o, 1), nn.BatchNorm2d(o), nn.ReLU(), nn.Conv2d(o, i, 3, padding=1), nn.BatchNorm2d(i))

    net = nn.Sequential(*(block(64, 16) for _ in range(30)))
    start = time.perf_counter()
    result = fnn.summary(net, (1, 64, 56, 56))
    assert time.perf_counter() - start < 20
    assert result.total_operations == 30 * result["0"].operations
