"""Containers keep, name and print what torch's do."""

from collections import OrderedDict

import jax.numpy as jnp
import pytest
from oracle import assert_layers_agree, assert_refused, normal, torch

import fnn.nn


def names(module):
    """The children by name, with a type and a number that tell one from another."""
    return [(name, type(child).__name__, getattr(child, "in_features", None)) for name, child in module.named_children()]


def assert_both_become(change, start):
    """Asserts that a change makes the same container of the same start, and gives the same result, in both libraries."""
    seen = []
    for nn in (fnn.nn, torch.nn):
        container = start(nn)
        result = change(container, nn)
        module = isinstance(result, nn.Module)
        returned = names(result) if module else result
        seen.append((names(container), repr(container), list(container.state_dict()), result is container, returned))
    assert seen[0] == seen[1]


def numbered(nn, *sizes):
    return [nn.Linear(size, 1) for size in sizes]


def three(nn):
    return nn.Sequential(*numbered(nn, 1, 2, 3))


def named(nn):
    return nn.Sequential(OrderedDict(zip("abc", numbered(nn, 1, 2, 3), strict=True)))


def a_list(nn):
    return nn.ModuleList(numbered(nn, 1, 2, 3))


def a_dict(nn):
    return nn.ModuleDict(dict(zip("abc", numbered(nn, 1, 2, 3), strict=True)))


def parameters(nn, *sizes):
    return [nn.Parameter((torch if nn is torch.nn else jnp).ones((size, 2))) for size in sizes]


def a_parameter_list(nn):
    return nn.ParameterList(parameters(nn, 1, 2, 3))


def a_parameter_dict(nn):
    return nn.ParameterDict(dict(zip("abc", parameters(nn, 1, 2, 3), strict=True)))


def setitem(index, size=9):
    return lambda c, nn: c.__setitem__(index, *numbered(nn, size))


LISTED = [
    lambda c, nn: c[0],
    lambda c, nn: c[-1],
    lambda c, nn: c[1:],
    lambda c, nn: c[::2],
    lambda c, nn: c[5:],
    lambda c, nn: len(c),
    lambda c, nn: [child.in_features for child in c],
    lambda c, nn: c.append(*numbered(nn, 4)),
    lambda c, nn: c.extend(numbered(nn, 4, 5)),
    lambda c, nn: c.insert(1, *numbered(nn, 4)),
    lambda c, nn: c.insert(-1, *numbered(nn, 4)) if isinstance(c, nn.Sequential) else None,  # torch's list cannot
    lambda c, nn: c.pop(1),
    lambda c, nn: c.pop(-1),
    lambda c, nn: c.__delitem__(0),
    lambda c, nn: c.__delitem__(-1),
    lambda c, nn: c.__delitem__(slice(0, 2)),
    lambda c, nn: c.__delitem__(slice(None, None, 2)),
    setitem(1),
    setitem(-1),
    lambda c, nn: c + type(c)(*([numbered(nn, 4)] if isinstance(c, nn.ModuleList) else numbered(nn, 4))),
    lambda c, nn: c.__iadd__(type(c)(*([numbered(nn, 4)] if isinstance(c, nn.ModuleList) else numbered(nn, 4)))),
]


@pytest.mark.parametrize("change", LISTED, ids=range(len(LISTED)))
@pytest.mark.parametrize("start", [three, a_list])
def test_sequential_and_list(start, change):
    assert_both_become(change, start)


@pytest.mark.parametrize(
    "change",
    [
        lambda c, nn: c[0],
        lambda c, nn: c[1:],
        lambda c, nn: c.pop(0),
        lambda c, nn: c.__delitem__(slice(0, 1)),
        setitem(1),
        lambda c, nn: c.append(*numbered(nn, 4)),
        lambda c, nn: c * 2,
        lambda c, nn: 3 * c,
        lambda c, nn: c.b,
    ],
    ids=range(9),
)
def test_sequential_with_names(change):
    assert_both_become(change, named)


def test_sequential_calls_one_after_another():
    ours, theirs = (
        nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2), nn.Identity())) for nn in (fnn.nn, torch.nn)
    )
    assert_layers_agree(ours, theirs, normal(5, 4))


def test_a_module_in_two_places_is_one_module():
    layer = fnn.nn.Linear(2, 2)
    net = fnn.nn.Sequential(layer, layer)
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"]
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert (net(jnp.ones(2)) == layer(layer(jnp.ones(2)))).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda nn: nn.ModuleList(),
        lambda nn: nn.ModuleList([*numbered(nn, 1, 1, 1), nn.ReLU(), nn.ReLU(), *numbered(nn, 2)]),
        lambda nn: nn.ModuleList([three(nn), three(nn), nn.ModuleDict({"a": nn.ReLU()})]),
        lambda nn: nn.Sequential(),
        lambda nn: nn.Sequential(nn.Sequential(), a_list(nn)),
        lambda nn: nn.ModuleDict(),
        lambda nn: nn.ModuleDict([("a", nn.ReLU()), ("b", a_dict(nn))]),
    ],
    ids=range(7),
)
def test_prints_as_torch(make):
    assert repr(make(fnn.nn)) == repr(make(torch.nn))


@pytest.mark.parametrize(
    "change",
    [
        lambda c, nn: c["b"],
        lambda c, nn: (len(c), list(c), list(c.keys()), "a" in c, "x" in c),
        lambda c, nn: [(name, child.in_features) for name, child in c.items()],
        lambda c, nn: [child.in_features for child in c.values()],
        lambda c, nn: c.pop("b"),
        lambda c, nn: c.__delitem__("a"),
        lambda c, nn: c.clear(),
        setitem("b"),
        setitem("d"),
        lambda c, nn: c.update({"d": nn.ReLU(), "a": nn.ReLU()}),
        lambda c, nn: c.update([("z", nn.ReLU()), ["y", nn.ReLU()]]),
        lambda c, nn: c.update(nn.ModuleDict({"z": nn.ReLU()})),
        lambda c, nn: c.update(OrderedDict(z=nn.ReLU(), y=nn.ReLU())),
        lambda c, nn: setattr(c, "d", nn.ReLU()),
    ],
    ids=range(14),
)
def test_module_dict(change):
    assert_both_become(change, a_dict)


def shapes(value):
    """What a container of parameters holds, told by shapes."""
    if hasattr(value, "shape"):
        return type(value).__name__, tuple(value.shape)
    if hasattr(value, "named_parameters"):
        return [(name, tuple(parameter.shape)) for name, parameter in value.named_parameters()], list(value.state_dict())
    if isinstance(value, (list, tuple)):
        return [shapes(item) for item in value]
    return value


@pytest.mark.parametrize(
    "change",
    [
        lambda c, nn: c[-1],
        lambda c, nn: c[1:],
        lambda c, nn: list(c),
        lambda c, nn: len(c),
        lambda c, nn: c.append(*parameters(nn, 4)),
        lambda c, nn: c.append(parameters(nn, 4)[0].data),
        lambda c, nn: c.append("not an array"),
        lambda c, nn: c.extend(parameters(nn, 4, 5)),
        lambda c, nn: c.extend(nn.ParameterList(parameters(nn, 4))),
        lambda c, nn: c.__iadd__(parameters(nn, 4)),
        lambda c, nn: c.__setitem__(1, *parameters(nn, 9)),
    ],
    ids=range(11),
)
def test_parameter_list(change):
    seen = []
    for nn in (fnn.nn, torch.nn):
        container = a_parameter_list(nn)
        result = change(container, nn)
        seen.append((shapes(container), len(container), result is container, shapes(result)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda c, nn: c["b"],
        lambda c, nn: (len(c), list(c), list(c.keys()), "a" in c, "x" in c, list(reversed(c))),
        lambda c, nn: list(c.items()),
        lambda c, nn: list(c.values()),
        lambda c, nn: (c.get("a"), c.get("x"), c.get("x", 3)),
        lambda c, nn: c.setdefault("a", *parameters(nn, 4)),
        lambda c, nn: c.setdefault("x", *parameters(nn, 4)),
        lambda c, nn: c.setdefault("x"),
        lambda c, nn: c.pop("b"),
        lambda c, nn: c.popitem(),
        lambda c, nn: c.clear(),
        lambda c, nn: c.copy(),
        lambda c, nn: c.fromkeys("xy"),
        lambda c, nn: c.fromkeys("xy", *parameters(nn, 4)),
        lambda c, nn: c.__delitem__("a"),
        lambda c, nn: c.__setitem__("b", *parameters(nn, 9)),
        lambda c, nn: c.__setitem__("d", parameters(nn, 9)[0].data),
        lambda c, nn: c.__setitem__("d", 3),
        lambda c, nn: c.update({"d": parameters(nn, 4)[0], "a": parameters(nn, 5)[0]}),
        lambda c, nn: c.update([("z", parameters(nn, 4)[0])]),
        lambda c, nn: c.update(a_parameter_dict(nn)),
        lambda c, nn: c | nn.ParameterDict({"a": parameters(nn, 7)[0], "d": parameters(nn, 8)[0]}),
        lambda c, nn: c.__ior__(nn.ParameterDict({"d": parameters(nn, 8)[0]})),
    ],
    ids=range(23),
)
def test_parameter_dict(change):
    seen = []
    for nn in (fnn.nn, torch.nn):
        container = a_parameter_dict(nn)
        result = change(container, nn)
        seen.append((shapes(container), list(container), result is container, shapes(result)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("take", [lambda c: c["x"], lambda c: c.pop("x"), lambda c: c.__delitem__("keys")])
def test_parameter_dict_without_a_key_raises_key_error(take):
    with pytest.raises(KeyError):  # torch raises AttributeError
        take(a_parameter_dict(fnn.nn))


@pytest.mark.parametrize("make", [a_parameter_list, a_parameter_dict, lambda nn: nn.ParameterList([1, "x"])])
def test_parameters_print_as_in_torch_with_the_names_of_jax_dtypes(make):
    theirs = repr(make(torch.nn)).replace("torch.FloatTensor", "float32").replace("torch.float32", "float32")
    assert repr(make(fnn.nn)) == theirs


def test_parameters_in_containers_are_trained():
    net = a_parameter_dict(fnn.nn)
    _, grads = fnn.value_and_grad(lambda net: sum(value.sum() for value in net.values()))(net)
    assert {name: grad.tolist() for name, grad in grads.items()} == {
        "a": [[1.0] * 2],
        "b": [[1.0] * 2] * 2,
        "c": [[1.0] * 2] * 3,
    }


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda nn, array: three(nn)[3], ["3", "out of range"]),
        (lambda nn, array: a_list(nn)[-4], ["-4", "out of range"]),
        (lambda nn, array: three(nn).append(3), ["int", "Module"]),
        (lambda nn, array: nn.Sequential(3), ["int", "Module"]),
        (lambda nn, array: three(nn) + 3, ["Sequential", "int"]),
        (lambda nn, array: three(nn) * 0, ["0"]),
        (lambda nn, array: three(nn) * "x", ["str"]),
        (lambda nn, array: a_list(nn).extend(3), ["iterable", "int"]),
        (lambda nn, array: a_list(nn)["a"], ["str"]),
        (lambda nn, array: nn.ModuleList([3]), ["int", "Module"]),
        (lambda nn, array: a_dict(nn)["x"], ["x"]),
        (lambda nn, array: a_dict(nn).pop("x"), ["x"]),
        (lambda nn, array: a_dict(nn).update(3), ["iterable", "int"]),
        (lambda nn, array: a_dict(nn).update([("a", nn.ReLU(), 1)]), ["#0"]),
        (lambda nn, array: a_dict(nn).update(["ab", 3]), []),
        (lambda nn, array: nn.ModuleDict({"a.b": nn.ReLU()}), ["a.b"]),
        (lambda nn, array: nn.ModuleDict({"": nn.ReLU()}), []),
        (lambda nn, array: nn.ModuleDict({"items": nn.ReLU()}), ["items"]),
        (lambda nn, array: a_parameter_list(nn)[3], ["3", "out of range"]),
        (lambda nn, array: a_parameter_list(nn).extend(array([1.0])), ["iterable"]),
        (lambda nn, array: a_parameter_dict(nn).__setitem__(3, array([1.0])), ["string", "int"]),
        (lambda nn, array: a_parameter_dict(nn).update(3), ["iterable", "int"]),
    ],
    ids=range(22),
)
def test_refuses(call, words):
    assert_refused(call, *words)
