"""PyTorch's own test databases, `op_db` and `module_db`, as cases: a call for torch, and the same call for fnn.

With them the larger reference inputs of some operators, the older list of `common_nn`, and in `own.py` what they all lack.

A case is named `entry#number`, such as `nn.functional.pad.constant#12` or `Conv2d#3`; error inputs `entry!number`.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from conformance import own
from torch.testing._internal import common_nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

import fnn.functional
import fnn.nn
from fnn.nn.utils.rnn import PackedSequence

# Entries that are not of this library: each with the reason.
LEFT_OUT = {
    "nn.functional.batch_norm.without_cudnn": "runs on CUDA alone: it has no dtype on the CPU",
}
# Cases that differ from torch, each with the reason.
_NAN = "torch's gradient at NaN is NaN in large arrays and that of a positive number in small ones; ours is NaN"
_LIMIT = "torch's gradient at infinity is NaN; ours is its limit, 1"
_OVERFLOW = "torch overflows to NaN where the real part is large and negative; ours has the value, 0"
_EDGE = "with an infinity at an edge: torch adds multiples of it of both signs, NaN; ours adds the weights of a pixel first"
_ROUNDED = "with an infinity: XLA:CPU rounds `exp(x) - y * x` once, where torch has infinity less infinity, NaN"
_SUM = "with an infinity: torch's sum over channels stays infinite where it has left, ours becomes NaN"
_UNSEEN = "with a NaN: torch's kernel for four axes gives 0 where a query is NaN, its path for three NaN, as we do"
DIFFERENT = {
    "CrossMapLRN2d#1": _SUM,
    "CrossMapLRN2d.common_nn#0": _SUM,
    "PoissonNLLLoss#3": _ROUNDED,
    "nn.functional.interpolate.bicubic#12": _EDGE,
    "nn.functional.interpolate.bicubic.reference#14": _EDGE,
    "nn.functional.scaled_dot_product_attention#12": _UNSEEN,
    **{f"nn.functional.{name}.reference#{i}": _NAN for name in ("elu", "celu", "selu") for i in (12, 26)},
    **{f"nn.functional.mish.reference#{i}": _LIMIT for i in (12, 26)},
    **{f"nn.functional.silu.complex.reference#{i}": _OVERFLOW for i in (11, 25)},
}

# The database calls these with the table first.
TABLE_FIRST = {"embedding", "embedding_bag"}


@dataclass(frozen=True)
class Call:
    """A function or a layer, and its arguments, in torch's terms."""

    function: Callable[..., Any]  # torch's
    name: str  # in fnn.functional, or in fnn.nn for a layer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    constructor: tuple[tuple[Any, ...], dict[str, Any]] | None = None  # of a layer
    training: bool = True


@dataclass(frozen=True)
class Case:
    """A sample, or an input that shall be refused."""

    entry: str
    number: int
    call: Call
    refused: tuple[type[Exception], ...] = ()  # what torch raises
    on_construction: bool = False

    @property
    def name(self) -> str:
        return f"{self.entry}{'!' if self.refused else '#'}{self.number}"


def _packed(fields: Any, _: Any) -> Any:
    """Packed sequences of torch or of fnn, as their fields are."""
    tensors = isinstance(fields[0], torch.Tensor)
    return (torch.nn.utils.rnn.PackedSequence if tensors else PackedSequence)(*fields)


for _class in (torch.nn.utils.rnn.PackedSequence, PackedSequence):
    with contextlib.suppress(ValueError):  # raised the second time, where pytest imports this module twice
        pytree.register_pytree_node(_class, lambda packed: (list(packed), None), _packed)


def functions() -> dict[str, Any]:
    """The entries of `op_db` that are of `torch.nn.functional`, by name."""
    found = {}
    for op in op_db:
        name = f"{op.name}.{op.variant_test_name}".rstrip(".")
        if op.name.startswith("nn.functional.") and name not in LEFT_OUT:
            found[name] = op
    return found


def layers() -> dict[str, Any]:
    """The entries of `module_db`, by name."""
    return {m.module_cls.__name__: m for m in module_db}


def older() -> dict[str, list[Any]]:
    """The entries of `common_nn` that say by name what they call: samples by class or function."""
    found: dict[str, list[Any]] = {}
    for test in [*common_nn.module_tests, *common_nn.get_new_module_tests(), *common_nn.criterion_tests]:
        name, options = test.get("module_name"), {}
        if name is None and (forward := getattr(test.get("constructor"), "forward", None)) is not None:
            inside = dict(zip(forward.__code__.co_freevars, [cell.cell_contents for cell in forward.__closure__], strict=True))
            function, options = inside["fn"], inside["kwargs"]
            name = f"nn.functional.{function.__name__}" if hasattr(fnn.functional, function.__name__) else None
        if name is not None:
            found.setdefault(f"{name}.common_nn", []).append((test, options))
    return found


@cache
def entries() -> dict[str, Any]:
    """All entries, by name."""
    of_own: dict[str, Any] = {f"nn.functional.{name}": samples for name, samples in own.functions().items()}
    found = functions()
    larger = {f"{name}.reference": op for name, op in found.items() if op.reference_inputs_func is not None}
    return found | larger | layers() | older() | of_own | own.layers()


def family(entry: str) -> str:
    """The file of fnn that the entry is in."""
    is_function = entry.startswith("nn.functional.")
    name = entry.removeprefix("nn.functional.").split(".")[0]
    found = getattr(fnn.functional if is_function else fnn.nn, name, None)
    return "missing" if found is None else f"{'functional' if is_function else 'modules'}/{found.__module__.split('.')[-1]}"


def cases(entry: str) -> Iterator[Case]:
    """The cases of an entry: always the same, in the same order."""
    torch.manual_seed(0)
    np.random.seed(0)
    given = entries()[entry]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if entry.endswith(".common_nn"):
            yield from _of_older(entry, given)
        elif isinstance(given, list):
            yield from _of_own(entry, given)
        else:
            yield from (_of_function if entry.startswith("nn.functional.") else _of_layer)(entry, given)


def middle(entry: str) -> list[Case]:
    """The sample in the middle of an entry's."""
    samples = [case for case in cases(entry) if not case.refused]
    return [samples[len(samples) // 2]]


def _of_own(entry: str, samples: list[Any]) -> Iterator[Case]:
    for number, sample in enumerate(samples):
        if isinstance(sample, tuple):
            made, forward = sample
            constructor = (made.args, made.kwargs)
            yield Case(entry, number, Call(getattr(torch.nn, entry), entry, forward.args, forward.kwargs, constructor))
        else:
            name = entry.removeprefix("nn.functional.")
            yield Case(entry, number, Call(getattr(torch.nn.functional, name), name, sample.args, sample.kwargs))


def _of_older(entry: str, tests: list[Any]) -> Iterator[Case]:
    name = entry.removeprefix("nn.functional.").split(".")[0]
    for number, (test, options) in enumerate(tests):
        args = [test["input_fn"]() if "input_fn" in test else torch.randn(test["input_size"])]
        if "target_fn" in test or "target_size" in test:
            args.append(test["target_fn"]() if "target_fn" in test else torch.randn(test["target_size"]))
        inputs = tuple(x.requires_grad_() if x.is_floating_point() else x for x in pytree.tree_leaves(args))
        if entry.startswith("nn.functional."):
            yield Case(entry, number, Call(getattr(torch.nn.functional, name), name, inputs, options))
        else:
            constructor = (tuple(test.get("constructor_args", ())), {})
            yield Case(entry, number, Call(getattr(torch.nn, name), name, inputs, {}, constructor))


def _of_function(entry: str, op: Any) -> Iterator[Case]:
    name = op.name.removeprefix("nn.functional.")
    # the database's own wrappers of random functions set a seed
    function = op.op if name in TABLE_FIRST else getattr(torch.nn.functional, name)
    dtypes = op.supported_dtypes("cpu")
    dtype = next(d for d in (torch.float32, torch.complex64, torch.int64) if d in dtypes)
    reference = entry.endswith(".reference")
    differentiable = op.supports_autograd and (dtype.is_floating_point or dtype.is_complex)
    samples = op.reference_inputs if reference else op.sample_inputs
    for number, sample in enumerate(samples("cpu", dtype, requires_grad=differentiable)):
        yield Case(entry, number, Call(function, name, (sample.input, *sample.args), sample.kwargs))
    for number, error in enumerate(op.error_inputs("cpu") if op.error_inputs_func and not reference else ()):
        sample = error.sample_input
        yield Case(entry, number, Call(function, name, (sample.input, *sample.args), sample.kwargs), _types(error.error_type))


def _of_layer(entry: str, info: Any) -> Iterator[Case]:
    options = {"device": "cpu", "dtype": torch.float32, "requires_grad": True}
    modes = (True, False) if info.train_and_eval_differ else (True,)

    def call(given: Any, training: bool) -> Call:
        made, forward = given.constructor_input, given.forward_input
        args, kwargs = (forward.args, forward.kwargs) if forward is not None else ((), {})
        return Call(info.module_cls, entry, tuple(args), kwargs, (tuple(made.args), made.kwargs), training)

    numbers = itertools.count()
    for training in modes:
        for given in info.module_inputs_func(info, **options, training=training):
            if given.forward_input is not None:
                yield Case(entry, next(numbers), call(given, training))
    numbers = itertools.count()
    if info.module_error_inputs_func is not None:
        for error in info.module_error_inputs_func(info, **options, training=True):
            at = type(error.error_on).CONSTRUCTION_ERROR
            made = call(error.module_error_input, True)
            yield Case(entry, next(numbers), made, _types(error.error_type), error.error_on is at)


def _types(error_type: Any) -> tuple[type[Exception], ...]:
    return error_type if isinstance(error_type, tuple) else (error_type,)


def for_fnn(value: Any) -> Any:
    """Torch's arguments as fnn takes them."""
    if isinstance(value, torch.Tensor):
        value = value.detach().resolve_conj().resolve_neg()
        return jnp.asarray(value.float().numpy(), jnp.bfloat16) if value.dtype is torch.bfloat16 else jnp.asarray(value.numpy())
    if isinstance(value, torch.dtype):
        return jnp.dtype(str(value).removeprefix("torch."))
    if isinstance(value, torch.nn.TransformerEncoderLayer):
        return _encoder_layer(value)
    if isinstance(value, torch.nn.Module):
        settings = {name: setting for name, setting in vars(value).items() if not name.startswith("_") and name != "training"}
        return getattr(fnn.nn, type(value).__name__)(**{for_constructor(name): setting for name, setting in settings.items()})
    if callable(value) and hasattr(fnn.functional, getattr(value, "__name__", "")):
        return getattr(fnn.functional, value.__name__)
    return value


def _encoder_layer(layer: Any) -> Any:
    """The layer of fnn that is made as torch's was, which does not keep the arguments of its constructor."""
    attention, linear = layer.self_attn, layer.linear1
    return fnn.nn.TransformerEncoderLayer(
        attention.embed_dim,
        attention.num_heads,
        linear.out_features,
        layer.dropout.p,
        for_fnn(layer.activation),
        layer.norm1.eps,
        attention.batch_first,
        layer.norm_first,
        linear.bias is not None,
    )


def for_constructor(attribute: str) -> str:
    """The name that a constructor has for an attribute."""
    return {"norm": "p"}.get(attribute, attribute)


def convert(tree: Any) -> Any:
    """All torch arguments in a nest of lists, tuples and dicts as fnn takes them."""
    return pytree.tree_map(for_fnn, tree)


def function_of(name: str) -> Callable[..., Any]:
    """The function of fnn, called as the database calls torch's."""
    function = getattr(fnn.functional, name)
    return (lambda table, index, **options: function(index, table, **options)) if name in TABLE_FIRST else function
