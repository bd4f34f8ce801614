"""Public classes, methods and functions take torch's arguments: the same names, order and defaults."""

import importlib
import inspect
import re

import pytest
from oracle import torch

import fnn.functional
import fnn.nn

# Ours differ where an initialiser and its shape can be given; torch's deprecation hides what Container takes.
OWN = {"Module", "Parameter", "Buffer", "Container"}
# torch's say only *args and **kwargs.
OPEN = {"forward", "to", "state_dict", "compile"}

# Functions of C++ whose documentation does not say what they take.
UNDOCUMENTED = {
    "conv_tbc": "input, weight, bias, pad=0",
    "one_hot": "input, num_classes=-1",
    "scaled_dot_product_attention": "query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, "
    "enable_gqa=False",
}

FUNCTIONS = [name for name in fnn.functional.__all__ if hasattr(torch.nn.functional, name)]
INITS = [name for name in vars(fnn.nn.init) if re.fullmatch(r"[a-z]\w*_|calculate_gain", name)]
CLASSES = [name for name in fnn.nn.__all__ if isinstance(getattr(torch.nn, name, None), type) and name not in OWN]


def own_methods(kind):
    """The methods of a class; of Module also those that it is put together from."""
    parts = kind.__mro__ if kind is fnn.nn.Module else [kind]
    return {name: value for part in reversed(parts) for name, value in vars(part).items()}


METHODS = [
    (name, method)
    for name in [*CLASSES, "Module"]
    for method, function in own_methods(getattr(fnn.nn, name)).items()
    if not method.startswith("_") and callable(getattr(getattr(torch.nn, name), method, None)) and callable(function)
    if (name, method) not in {("Module", method) for method in OPEN}
]


def documented(function):
    """The signature, or for a function of C++ the one that its documentation begins with."""
    if getattr(function, "__init__", None) is torch.nn.Module.__init__:
        return inspect.Signature()  # it names *args and **kwargs, and refuses them
    if found := re.match(r"__init__\((.*?)\)", function.__doc__ or ""):
        return inspect.signature(eval(f"lambda {found[1]}: None"))  # a recurrent layer, which takes *args and **kwargs
    try:
        signature = inspect.signature(getattr(torch.nn.functional, f"_{function.__name__}", function))
    except ValueError:
        found = re.match(r"\s*\w+\((.*?)\) -> ", function.__doc__)
        arguments = UNDOCUMENTED.get(function.__name__) or found[1]
        signature = inspect.signature(eval(f"lambda {arguments}: None"))
    return signature


def default(parameter):
    """The default; of a function, such as relu, its name."""
    return parameter.default.__name__ if inspect.isroutine(parameter.default) else parameter.default


def assert_same_arguments(ours, theirs):
    expected = [(p.name, default(p)) for p in documented(theirs).parameters.values()]
    names = {name for name, _ in expected}
    inherited = getattr(ours, "__init__", None) is fnn.nn.Module.__init__  # it names *args and **kwargs, and refuses them
    own = () if inherited else inspect.signature(ours).parameters.values()
    assert [(p.name, default(p)) for p in own if p.name in names or p.kind is not p.KEYWORD_ONLY] == expected


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    assert_same_arguments(getattr(fnn.functional, name), getattr(torch.nn.functional, name))


@pytest.mark.parametrize("name", INITS)
def test_initial_values(name):
    assert_same_arguments(getattr(fnn.nn.init, name), getattr(torch.nn.init, name))


@pytest.mark.parametrize("name", CLASSES)
def test_constructors(name):
    assert_same_arguments(getattr(fnn.nn, name), getattr(torch.nn, name))


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_methods(name, method):
    assert_same_arguments(getattr(getattr(fnn.nn, name), method), getattr(getattr(torch.nn, name), method))


@pytest.mark.parametrize(
    "path",
    [
        "nn.grad",
        "nn.modules.module",
        "nn.utils.clip_grad",
        "nn.utils.convert_parameters",
        "nn.utils.fusion",
        "nn.utils.init",
        "nn.utils.memory_format",
        "nn.utils.parametrizations",
        "nn.utils.parametrize",
        "nn.utils.prune",
        "nn.utils.spectral_norm",
        "nn.utils.stateless",
        "nn.utils.weight_norm",
        "optim.swa_utils",
    ],
)
def test_functions_of_a_file(path):
    ours, theirs = (importlib.import_module(f"{library}.{path}") for library in ("fnn", "torch"))
    names = [name for name, value in vars(theirs).items() if inspect.isfunction(value) and value.__module__ == theirs.__name__]
    public = [name for name in names if not name.startswith("_")]
    assert public
    for name in public:
        assert_same_arguments(getattr(ours, name), getattr(theirs, name))
