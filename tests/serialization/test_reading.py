"""fnn.load: files that torch writes, with torch as the oracle."""

import collections
import gc
import io
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from serialization.files import DTYPES, FORMATS, bits, python, random_tensor, repacked, same
from torch.testing._internal.common_modules import module_db

import fnn


def written(value, path, **options):
    torch.save(value, path, **options)
    return path


@pytest.fixture(params=FORMATS)
def through(request, tmp_path):
    """Writes with torch in one of its formats, and reads with fnn."""

    def through(value, **options):
        path = written(value, tmp_path / "file.pt", **FORMATS[request.param])
        return fnn.load(path, **options)

    return through


def state_dicts():
    """State dicts of every class of torch.nn that PyTorch's database has."""
    states = {}
    for info in module_db:
        if "Lazy" in info.name:
            continue  # torch.load(weights_only=True) refuses parameters without values as well
        samples = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
        inputs = samples[0].constructor_input
        states[info.name] = info.module_cls(*inputs.args, **inputs.kwargs).state_dict()
    return states


def test_state_dicts_of_every_layer(through):
    states = state_dicts()
    assert len(states) > 90
    assert same(states, through(states))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_shape_bit_for_bit(through, dtype):
    tensors = [random_tensor(dtype, *shape) for shape in ((3, 5), (), (0,), (2, 0, 3), (1,))]
    assert same(tensors, through(tensors))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("format", FORMATS)
def test_plain_values_in_every_protocol(tmp_path, format, protocol):
    tensor = torch.randn(3, requires_grad=True)
    value = {
        "numbers": [0, 255, 256, 65536, -1, 2**31, 2**70, -(2**70), 1.5, float("inf"), 1 + 2j, True, False, None],
        "text": ["", "é", "a" * 300, "\N{SNOWMAN}", b"", b"\x00\xff", b"b" * 300, bytearray(b"xy")],
        "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [[]], {}, {1: {2.5: "x", None: 1, (1, "a"): 2}}],
        "sets": [set(), {1, 2}, {"a"}, frozenset((1, 2))],
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "counter": collections.Counter("aab"),
        "numpy": [np.float32(1.5), np.int64(-3), np.bool_(True), np.arange(6).reshape(2, 3), np.array(3 + 1j)],
        "other order": [np.arange(3, dtype=">i4"), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((0, 3))],
        "parameter": torch.nn.Parameter(tensor.detach()),
    }
    got = fnn.load(written(value, tmp_path / "file.pt", pickle_protocol=protocol, **FORMATS[format]))
    expected = {**value, "other order": [x.astype(x.dtype.newbyteorder("=")) for x in value["other order"]]}
    assert same(expected, got)


def test_types_of_torch_become_plain(through):
    value = [torch.Size([2, 3]), torch.float16, torch.bfloat16, torch.device("cuda:1"), torch.device("cpu")]
    assert through(value) == [(2, 3), np.dtype(np.float16), jnp.dtype(jnp.bfloat16), "cuda:1", "cpu"]


def test_views_and_strides_share_memory_as_in_torch(through):
    whole = torch.arange(60.0).reshape(3, 4, 5)
    views = [whole, whole.transpose(0, 2), whole[1:, ::2, 3], whole[:, :1].expand(3, 4, 5), whole.reshape(-1)[7], whole]
    got = through(views)
    assert same(views, got)
    assert [array.strides for array in got] == [tuple(4 * stride for stride in view.stride()) for view in views]
    assert got[0] is got[-1]
    assert all(np.shares_memory(got[0], array) for array in got)
    assert not any(array.flags.writeable for array in got)


def test_empty_views_start_anywhere(through):
    views = [torch.ones(4, 0, 2)[1:], torch.ones(3)[3:], torch.empty(0, 5).t()[2:]]
    assert views[0].storage_offset() > 0
    assert same(views, through(views))


def test_tied_weights_are_one_array(through):
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    net[1].weight = net[0].weight
    got = through(net.state_dict())
    assert got["0.weight"] is got["1.weight"]
    assert through(net.state_dict(), device="cpu")["0.weight"].shape == (3, 3)


def test_conjugated_and_negated_views(through):
    value = [torch.tensor([1 + 2j, 3 - 1j]).conj(), torch.tensor([1 + 2j]).conj().imag, torch.tensor([1 + 2j]).imag]
    assert same(value, through(value))


def test_tensors_with_attributes_and_of_xla(through):
    tensor = torch.ones(2)
    tensor.note = "not read"
    assert same([torch.ones(2)], through([tensor]))
    buffer = torch.nn.Buffer(torch.ones(3))
    assert same([torch.ones(3)], through([buffer]))

    class OnXla:
        def __reduce__(self):
            return torch._utils._rebuild_device_tensor_from_cpu_tensor, (torch.ones(2), torch.float32, "xla:0", False)

    assert same([torch.ones(2)], through([OnXla()]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_either_byte_order(tmp_path, dtype):
    tensor = random_tensor(dtype, 4, 3)
    width = dtype.itemsize // (2 if dtype.is_complex else 1)

    def swap(name, content):
        if name.startswith("data/"):
            return np.frombuffer(content, f"u{width}").byteswap().tobytes()
        return b"big" if name == "byteorder" else content

    file = io.BytesIO()
    torch.save([tensor, tensor.t()], file)
    path = tmp_path / "file.pt"
    path.write_bytes(repacked(file.getvalue(), swap))
    got = fnn.load(path)
    assert same([tensor, tensor.t()], got)
    assert np.shares_memory(*got)


def test_archives_of_old_versions_have_no_byte_order(tmp_path):
    file = io.BytesIO()
    torch.save({"a": torch.arange(3)}, file)
    (tmp_path / "file.pt").write_bytes(
        repacked(file.getvalue(), lambda name, old: old if name[:4] in ("data", "vers") else None)
    )
    assert same({"a": torch.arange(3)}, fnn.load(tmp_path / "file.pt"))


def test_archives_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(3)}, tmp_path / "file.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert same({"a": torch.arange(3)}, fnn.load(tmp_path / "file.pt"))


def test_checksums_are_compared_unless_asked_not_to(tmp_path):
    path = written({"a": torch.full((1000,), 7, dtype=torch.uint8)}, tmp_path / "file.pt")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\7\7\7\7", b"\7\7\6\7", 1))
    with pytest.raises(fnn.CheckpointError, match=r"file.pt: .*data/0 is damaged"):
        fnn.load(path)
    with pytest.raises(fnn.CheckpointError, match="data/0 is damaged"):
        fnn.load(path, device="cpu")
    assert fnn.load(path, verify=False)["a"].sum() == 6999


def test_load_state_dict_takes_what_is_read_and_sees_versions(through):
    theirs = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    theirs[1].num_batches_tracked.fill_(2**31 - 1)
    ours = fnn.nn.Sequential(fnn.nn.Conv2d(2, 3, 3), fnn.nn.BatchNorm2d(3))
    state = through(theirs.state_dict())
    assert state._metadata == theirs.state_dict()._metadata
    ours.load_state_dict(state)
    assert same(theirs.state_dict(), ours.state_dict())


@pytest.mark.parametrize("place", ["cpu", jax.devices()[0], jax.sharding.SingleDeviceSharding(jax.devices()[0])], ids=str)
def test_straight_to_a_device(through, place):
    whole = torch.randn(4, 6)
    value = {"a": whole, "b": [whole.t(), whole[1:, ::2]], "c": torch.ones(3, dtype=torch.bfloat16), "d": torch.tensor(5)}
    got = through(value, device=place)
    arrays = [got["a"], *got["b"], got["c"]]
    assert all(isinstance(array, jax.Array) and array.devices() == {jax.devices()[0]} for array in [*arrays, got["d"]])
    assert same([value["a"], *value["b"], value["c"]], arrays)
    assert got["d"].dtype == jnp.int32
    assert int(got["d"]) == 5


def test_devices_by_name(tmp_path):
    path = written({"model": {"a.weight": torch.ones(2), "b": torch.ones(3)}, "list": [torch.ones(1)]}, tmp_path / "file.pt")
    names = []
    fnn.load(path, device=names.append)
    assert names == ["model.a.weight", "model.b", "list.0"]
    got = fnn.load(path, device={"model.b": "cpu"})
    assert isinstance(got["model"]["b"], jax.Array)
    assert isinstance(got["model"]["a.weight"], np.ndarray)
    with pytest.raises(TypeError, match="a device is"):
        fnn.load(path, device=3)


def test_what_is_on_a_device_does_not_hold_the_file(tmp_path):
    path = written([torch.arange(100_000.0)], tmp_path / "file.pt")
    (array,) = fnn.load(path, device="cpu")
    gc.collect()
    assert "file.pt" not in Path("/proc/self/maps").read_text()
    path.write_bytes(bytes(path.stat().st_size))
    assert float(array[99_999]) == 99_999


def test_a_number_of_64_bits_that_does_not_fit(through):
    value = {"net.count": torch.tensor([1, 2**40])}
    assert same(value, through(value))
    with pytest.raises(OverflowError, match=r"net\.count: a value of int64 from 1 to 1099511627776 does not fit int32"):
        through(value, device="cpu")
    with jax.enable_x64(True):
        assert same(value, through(value, device="cpu"))


class Settings:
    def __init__(self):
        self.rate = 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Settings(), "test_reading.Settings"),
        (re.compile("a"), r"asks for 're\._compile'"),
        (torch.nn.Linear(2, 2), r"asks for 'torch\.nn\.modules\.linear\.Linear'"),
        (torch.ones(3).to_sparse(), r"sparse tensors are not read; save tensor\.to_dense"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), r"quantized tensors are not read"),
        (torch.ones(2, dtype=torch.complex32), r"torch\.complex32.*no such dtype"),
        (torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), r"torch\.float4_e2m1fn_x2.*two values a byte"),
        (torch.ones(2, device="meta"), "has no values"),
        (torch.nested.nested_tensor([torch.ones(2)]), "nested tensors are not read"),
        (collections.OrderedDict, "holds a class"),
        (torch.ones(2).untyped_storage(), "a storage by itself"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_read_is_refused_by_name(tmp_path, value, message):
    path = written({"a": torch.ones(2), "b": value}, tmp_path / "file.pt")
    with pytest.raises(fnn.CheckpointError, match=message) as refused:
        fnn.load(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert isinstance(refused.value, ValueError)


def test_unknown_objects_can_be_skipped(tmp_path):
    value = {"a": torch.ones(2), "b": [Settings(), 3], "c": re.compile("a"), "d": torch.ones(3).to_sparse()}
    path = written(value, tmp_path / "file.pt")
    with pytest.raises(fnn.CheckpointError, match="skip_unknown=True"):
        fnn.load(path)
    got = fnn.load(path, skip_unknown=True)
    assert same(value["a"], got["a"])
    assert got["b"][1] == 3
    assert repr([got["b"][0], got["c"]]).endswith("test_reading.Settings>, <unknown re._compile>]")
    assert got["d"].name == "torch._utils._rebuild_sparse_tensor"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a page of HTML"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"", "is empty"),
        (b"\x80\x04K\x01.", "neither"),
        (b"hello", "neither"),
    ],
)
def test_files_of_other_kinds(tmp_path, content, message):
    for name in ("file.pt", "file.safetensors") if content[:1] in b"v<" else ("file.pt",):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(fnn.CheckpointError, match=message):
            fnn.load(tmp_path / name)


def test_programs_and_arrays_of_numpy_say_what_to_do(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(2)), tmp_path / "script.pt")
    with pytest.raises(fnn.CheckpointError, match=r"TorchScript.*torch\.jit\.load"):
        fnn.load(tmp_path / "script.pt")
    np.savez(tmp_path / "arrays.npz", a=np.ones(2))
    with pytest.raises(fnn.CheckpointError, match=r"np\.load"):
        fnn.load(tmp_path / "arrays.npz")


def test_skip_unknown_stands_in_for_modules_and_arrays_of_other_things(through):
    value = {
        "net": torch.nn.Linear(2, 2),
        "words": np.array(["a"]),
        "word": np.str_("a"),
        "any": np.array([None]),
        "x": torch.ones(2),
    }
    with pytest.raises(fnn.CheckpointError, match="Linear"):
        through(value)
    with pytest.raises(fnn.CheckpointError, match=r"numpy\.dtype\('U1'\).*holds no plain numbers"):
        through(value["words"])
    got = through(value, skip_unknown=True)
    assert [str(item) for item in list(got.values())[:-1]] == [
        "<unknown torch.nn.modules.linear.Linear>",
        "<unknown numpy.dtype('U1')>",
        "<unknown numpy.dtype('U1')>",
        "<unknown numpy.dtype('O8')>",
    ]
    assert same(value["x"], got["x"])


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        fnn.load(tmp_path / "file.pt")


def test_legacy_views_of_storages(tmp_path):
    """Files of PyTorch 0.x say of a storage that it is a part of another."""
    tensor = torch.arange(6.0)
    file = io.BytesIO()
    torch.save(tensor, file, _use_new_zipfile_serialization=False)
    content = file.getvalue()
    part = b"(X\x01\0\0\0vK\x01K\x04t"  # a part of 4 elements from the second on
    content = content.replace(b"K\x06Nt", b"K\x06" + part + b"t", 1).replace(b"K\x00K\x06\x85", b"K\x00K\x04\x85", 1)
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    assert torch.load(path).tolist() == fnn.load(path).tolist() == [1, 2, 3, 4]


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import fnn, hashlib, numpy as np
state = fnn.load(sys.argv[1])
for name, value in state.items():
    print(name, value.dtype, value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest())
fnn.save(state, sys.argv[2])
fnn.save(state, sys.argv[3])
again = fnn.load(sys.argv[3])
assert all((np.asarray(again[name]) == value).all() for name, value in state.items())
"""


def test_a_process_without_torch_reads_and_writes(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.LSTM(3, 4)).to(torch.bfloat16)
    path = written(net.state_dict(), tmp_path / "file.pt")
    printed = python(WITHOUT_TORCH, path, tmp_path / "other.pt", tmp_path / "other.safetensors")
    assert [line.split()[0] for line in printed.splitlines()] == list(net.state_dict())
    assert same(net.state_dict(), torch.load(tmp_path / "other.pt", weights_only=True))
    assert bits(net.state_dict()["0.weight"])[0] == "bfloat16"


def test_a_progress_bar_for_long_files(tmp_path, monkeypatch, capsys):
    path = written([torch.ones(1000) for _ in range(3)], tmp_path / "file.pt")
    fnn.load(path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("fnn.serialization.placing._LONG", 1000)
    monkeypatch.setattr("fnn.serialization.placing._PATIENCE", 0)
    fnn.load(path)
    assert "fnn.load" in capsys.readouterr().err
