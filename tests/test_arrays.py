"""Arrays are made from torch tensors, numpy arrays and numbers without loss, and as copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import torch

import fnn
from fnn.arrays import as_array, declared, exported, is_tensor

DTYPES = [
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "int64",
    "int32",
    "int8",
    "uint8",
    "bool",
    "complex64",
]


def random_tensor(dtype, *shape):
    return (torch.randn(*shape) * 3).to(getattr(torch, dtype))


def expected(tensor):
    wide = tensor.detach().resolve_conj()
    return (wide.double() if wide.is_floating_point() else wide).numpy()


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_dtype(dtype):
    tensor = random_tensor(dtype, 4, 5)
    array = as_array(tensor)
    assert array.dtype == jnp.dtype({"int64": "int32"}.get(dtype, dtype))
    np.testing.assert_array_equal(np.asarray(array.astype(np.float32) if array.itemsize < 4 else array), expected(tensor))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.requires_grad_(),
        lambda t: t.clone().requires_grad_() * 2,
        lambda t: t.t(),
        lambda t: t[::2, 1:],
        lambda t: t.expand(3, 4, 5),
        lambda t: torch.nn.Parameter(t),
        lambda t: t[:0],
        lambda t: t[0, 0],
        lambda t: t.to(torch.complex64).conj(),
        lambda t: torch.complex(t, t).conj().imag,
    ],
    ids=["leaf", "graph", "transposed", "strided", "expanded", "Parameter", "empty", "scalar", "conjugate", "negated"],
)
def test_tensors_of_every_kind(change):
    tensor = change(random_tensor("float32", 4, 5))
    assert is_tensor(tensor)
    np.testing.assert_array_equal(as_array(tensor), expected(tensor.resolve_neg()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
def test_a_later_change_of_the_source_does_not_show(dtype):
    tensor = torch.ones(3, dtype=getattr(torch, dtype))
    source = np.ones(3, np.float32)
    from_tensor, from_numpy = as_array(tensor), as_array(source)
    tensor.fill_(2)
    source.fill(2)
    assert from_tensor.tolist() == from_numpy.tolist() == [1, 1, 1]


@pytest.mark.parametrize("make", [torch.tensor, np.array], ids=["torch", "numpy"])
@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_an_integer_that_does_not_fit_is_refused(make, value):
    with pytest.raises(OverflowError, match=rf"{value}.* int32.*jax_enable_x64"):
        as_array(make([0, value]))
    assert as_array(make([2**31 - 1, -(2**31)])).tolist() == [2**31 - 1, -(2**31)]
    with pytest.raises(OverflowError, match=r"300 .* int8"):
        as_array(make([300]), np.int8)


def test_a_float_that_would_become_infinite_is_refused():
    with pytest.raises(OverflowError, match=r"1e\+300 .* float32"):
        as_array(np.array([1e300]))
    assert np.isinf(as_array(np.array([np.inf]))).all()


def test_subclasses_of_tensors_are_tensors():
    class Mask(torch.Tensor):
        pass

    assert as_array(torch.ones(2, dtype=torch.bfloat16).as_subclass(Mask)).tolist() == [1, 1]


def test_64_bits_are_kept_where_jax_has_them():
    with jax.enable_x64(True):
        assert as_array(torch.tensor([2**40])).tolist() == [2**40]
        assert as_array(torch.ones(2, dtype=torch.float64)).dtype == np.float64


def test_the_declared_dtype_comes_back():
    array, dtype = declared(torch.tensor([3]))
    assert (array.dtype, dtype, exported(array, dtype).dtype) == (np.int32, np.int64, np.int64)
    array, dtype = declared(torch.ones(2))
    assert exported(array, dtype) is array


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1.5, "float32"), ([1.0, 2.0], "float32"), (3, "int32"), ([True], "bool"), (2j, "complex64"), (np.float16(1), "float16")],
    ids=str,
)
def test_numbers_are_single(value, dtype):
    array = as_array(value)
    assert (array.dtype, array.weak_type, array.tolist()) == (dtype, False, value)


def test_parameters_and_jax_arrays_stay_what_they_are():
    array = jnp.arange(3.0)
    assert as_array(array).unsafe_buffer_pointer() == array.unsafe_buffer_pointer()
    assert (as_array(fnn.nn.Parameter(array)) == array).all()
    key = jax.random.key(0)
    assert as_array(key) == key


@pytest.mark.filterwarnings("ignore:values of the state_dict lost precision")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_a_state_dict_of_another_dtype_is_converted_or_assigned(dtype):
    theirs = torch.nn.Linear(3, 2, dtype=getattr(torch, dtype))
    ours = fnn.nn.Linear(3, 2)
    ours.load_state_dict(theirs.state_dict())
    np.testing.assert_array_equal(ours.weight, theirs.weight.detach().float())
    assert ours.weight.dtype == np.float32
    ours.load_state_dict(theirs.state_dict(), assign=True)
    assert ours.weight.dtype == {"float64": "float32"}.get(dtype, dtype)


def test_a_state_dict_of_living_parameters_loads_as_a_copy():
    theirs = torch.nn.BatchNorm1d(3)
    ours = fnn.nn.BatchNorm1d(3)
    ours.load_state_dict(theirs.state_dict(keep_vars=True))
    with torch.no_grad():
        theirs.weight.fill_(5)
        theirs.running_mean.fill_(5)
    assert ours.weight.tolist() == [1, 1, 1]
    assert ours.running_mean.tolist() == [0, 0, 0]


def test_a_counter_that_does_not_fit_leaves_the_module_unchanged():
    theirs = torch.nn.BatchNorm1d(3)
    theirs.weight.data.fill_(5)
    theirs.num_batches_tracked.fill_(2**31)
    ours = fnn.nn.BatchNorm1d(3)
    with pytest.raises(RuntimeError, match=r"num_batches_tracked.*2147483648"):
        ours.load_state_dict(theirs.state_dict())
    assert ours.weight.tolist() == [1, 1, 1]
