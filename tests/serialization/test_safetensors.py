"""The safetensors format, with the package as the oracle."""

import json
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from serialization.files import DTYPES, random_tensor, same

import fnn


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def with_header(path, header, content=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != torch.complex128], ids=str)
def test_every_dtype_both_ways(path, dtype):
    tensors = {str(shape): random_tensor(dtype, *shape) for shape in ((3, 5), (), (0,), (2, 0, 3), (1,))}
    safetensors.torch.save_file(tensors, path)
    got = fnn.load(path)
    assert {name: tensors[name] for name in got}.keys() == tensors.keys()
    assert all(same(tensors[name], got[name]) for name in tensors)
    fnn.save(got, path)
    read = safetensors.torch.load_file(path)
    assert all(same(tensors[name], read[name]) for name in tensors)


def test_a_module_both_ways_and_its_metadata(path):
    net = fnn.nn.Sequential(fnn.nn.Linear(2, 3), fnn.nn.BatchNorm1d(3))
    fnn.save(net, path, metadata={"about": "a test"})
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"about": "a test", "format": "pt"}
    other = fnn.nn.Sequential(fnn.nn.Linear(2, 3), fnn.nn.BatchNorm1d(3))
    other.load_state_dict(fnn.load(path))
    assert same(dict(net.state_dict()), dict(other.state_dict()))
    theirs = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    safetensors.torch.load_model(theirs, path)
    assert same(dict(theirs.state_dict()), dict(net.state_dict()))


def test_shared_tensors_are_kept_once_as_save_model_does(path):
    theirs, ours = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for nn in (torch.nn, fnn.nn))
    theirs[1].weight, ours[1].weight = theirs[0].weight, ours[0].weight
    ours.load_state_dict(theirs.state_dict())
    safetensors.torch.save_model(theirs, path)
    written = safetensors.numpy.load_file(path)
    got = fnn.load(path)
    assert got["0.weight"] is got["1.weight"]
    assert got.keys() == ours.state_dict().keys()
    fnn.save(ours, path)
    read = safetensors.numpy.load_file(path)
    assert written.keys() == read.keys()
    assert same(written, {name: read[name] for name in written})
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"1.weight": "0.weight", "format": "pt"}
    assert safetensors.torch.load_model(theirs, path) == (set(), [])


def test_metadata_are_no_names_of_tensors(path):
    array = np.ones(2)
    fnn.save({"pt": array}, path)  # the format is "pt" as well
    assert list(fnn.load(path)) == ["pt"]
    fnn.save({"a": array, "format": array, "b": array}, path, metadata={"b": "a text"})
    assert sorted(fnn.load(path)) == sorted(safetensors.numpy.load_file(path)) == ["a", "b", "format"]
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "pt", "b": "a text"}
    with pytest.raises(TypeError, match="metadata is strings by name, not 'epoch': 1"):
        fnn.save({"a": array}, path, metadata={"epoch": 1})
    with pytest.raises(ValueError, match=r"metadata\['best'\] is 'a', the name of an array"):
        fnn.save({"a": array}, path, metadata={"best": "a"})


def test_a_name_twice_whose_entry_is_written_otherwise(path):
    entry = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    other = entry.replace(b"data_offsets", b"data\\u005foffsets")
    with pytest.raises(fnn.CheckpointError, match="a name twice"):
        fnn.load(with_header(path, b'{"a":' + entry + b',"a":' + other + b"}", b"x"))


def test_overlapping_arrays_are_written_each(path):
    whole = np.arange(6.0)
    fnn.save({"whole": whole, "part": whole[2:4], "turned": whole[::-1], "matrix": whole.reshape(2, 3).T}, path)
    got = fnn.load(path)
    assert {name: array.tolist() for name, array in got.items()} == {
        "whole": [0, 1, 2, 3, 4, 5],
        "part": [2, 3],
        "turned": [5, 4, 3, 2, 1, 0],
        "matrix": [[0, 3], [1, 4], [2, 5]],
    }


def test_arrays_are_aligned_in_their_order_and_views_of_the_file(path):
    fnn.save({"b": np.zeros(3, np.uint8), "a": np.zeros(3), "d": jnp.ones(5), "c": np.ones(2)}, path)
    got = fnn.load(path)
    assert list(got) == ["a", "c", "d", "b"]
    assert all(array.flags.aligned and not array.flags.owndata and not array.flags.writeable for array in got.values())


def test_equal_values_give_equal_bytes(path):
    contents = set()
    for _ in range(3):
        fnn.save({"a": np.ones(3), "b": np.ones(3)}, path, metadata={str(i): "x" for i in range(20)})
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_to_a_device(path):
    safetensors.torch.save_file({"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.tensor([2**40])}, path)
    got = fnn.load(path, device={"a": jax.devices()[0]})
    assert isinstance(got["a"], jax.Array)
    assert got["a"].dtype == jnp.bfloat16
    with pytest.raises(OverflowError, match="b: a value of int64"):
        fnn.load(path, device="cpu")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": np.ones(1), "b": 3}, "not 'b' of type int"),
        ({"model": {"a": np.ones(1)}}, "not 'model' of type dict; save the dict of arrays alone"),
        ({1: np.ones(1)}, "not 1 of type ndarray"),
        ([np.ones(1)], "by name"),
        ({"a": np.ones(1, np.complex128)}, "a has the dtype complex128"),
        ({"__metadata__": np.ones(1)}, "__metadata__"),
    ],
)
def test_what_the_format_does_not_hold(path, value, message):
    with pytest.raises(TypeError, match=message):
        fnn.save(value, path)
    assert not path.exists()


ENTRY = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "content", "message"),
    [
        ({"a": ENTRY}, b"123", "no valid safetensors"),
        ({"a": ENTRY}, b"12345", "no valid safetensors"),
        ({"a": {**ENTRY, "shape": [5]}}, b"1234", "no valid safetensors"),
        ({"a": {**ENTRY, "shape": [2**63, 2]}}, b"1234", "no valid safetensors"),
        ({"a": {**ENTRY, "shape": [-4]}}, b"1234", "no valid safetensors"),
        ({"a": {**ENTRY, "shape": [4] + [1] * 100}}, b"1234", "no shape of an array"),
        ({"a": {**ENTRY, "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, b"", "no shape of an array|no valid"),
        ({"a": {**ENTRY, "data_offsets": [4, 0]}}, b"1234", "no valid safetensors"),
        ({"a": {**ENTRY, "data_offsets": [2**64, 4]}}, b"1234", "no valid safetensors"),
        ({"a": {**ENTRY, "dtype": "X"}}, b"1234", "no valid safetensors"),
        ({"a": {**ENTRY, "dtype": "F4", "shape": [8]}}, b"1234", "has the dtype F4"),
        ({"a": ENTRY, "b": ENTRY}, b"1234", "no valid safetensors"),
        (b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},' * 2 + b"}", b"1234", "no valid safetensors"),
        (b'{"a":%s,"a":%s}' % ((json.dumps(ENTRY).encode(),) * 2), b"1234", "twice|no valid"),
        (b'{"a":' * 100_000, b"", "no valid safetensors"),
        (b"[" * 6_000_000, b"", "the header has 6000000 bytes"),
        (b"\xff{", b"", "no valid safetensors"),
    ],
)
def test_damaged_and_hostile_headers(path, header, content, message):
    with pytest.raises(fnn.CheckpointError, match=message) as refused:
        fnn.load(with_header(path, header, content))
    assert str(path) in str(refused.value)


def test_every_truncation_is_refused(path):
    safetensors.torch.save_file({"a": torch.ones(3), "b": torch.ones(2, 2)}, path)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(fnn.CheckpointError):
            fnn.load(path)


def test_the_package_is_asked_for(path, monkeypatch):
    fnn.save({"a": np.ones(1)}, path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        fnn.load(path)
