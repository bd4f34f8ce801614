"""fnn.save: files that torch reads with weights_only=True, and safetensors, with both as the oracle."""

import collections
import os
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serialization.files import same

import fnn
from fnn.serialization import atomic
from fnn.serialization.archive import ArchiveWriter
from fnn.serialization.tensors import DTYPES


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.pt"


def in_torch(value, path, **options):
    """What torch reads of what fnn wrote."""
    fnn.save(value, path)
    return torch.load(path, weights_only=True, **options)


def random_array(dtype, *shape):
    draw = np.random.default_rng(0)
    if dtype == np.bool_:
        return draw.random(shape) > 0.5
    return draw.integers(0, 256, (*shape, dtype.itemsize), dtype=np.uint8).view(dtype)[..., 0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mmap", [False, True], ids=["", "mmap"])
def test_every_dtype_and_shape_bit_for_bit(path, dtype, mmap):
    arrays = [random_array(dtype, *shape) for shape in ((3, 5), (), (0,), (2, 0, 3), (1,))]
    assert same(in_torch(arrays, path, mmap=mmap), arrays)
    assert same(arrays, fnn.load(path))


def test_modules_and_their_order_versions_and_counters(path):
    net = fnn.nn.Sequential(fnn.nn.Conv2d(2, 3, 3), fnn.nn.BatchNorm2d(3), fnn.nn.LSTM(3, 4)).to(jnp.bfloat16)
    read = in_torch(net, path)
    assert same(read, net.state_dict())
    assert read["1.num_batches_tracked"].dtype == torch.int64
    theirs = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.LSTM(3, 4)).to(torch.bfloat16)
    theirs.load_state_dict(read)


def test_plain_values(path):
    value = {
        "numbers": [0, 255, 256, -1, 2**31, -(2**31), 2**70, -(2**70), 2**2000, 1.5, float("inf"), 1 + 2j, True, False, None],
        "text": ["", "é", "a" * 300, "\N{SNOWMAN}", "\ud800", b"", b"\x00\xff", b"b" * 300, bytearray(b"xy")],
        "containers": [(), (1,), (1, (2,)), [], [[]], {}, {1: {2.5: "x", None: 1, (1, "a"): 2}}],
        "sets": [set(), {1, 2}, {"b", "a"}],
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "counter": collections.Counter("aab"),
    }
    assert same(value, in_torch(value, path))
    assert same(value, fnn.load(path))


def test_dtypes_and_numbers_of_numpy(path):
    value = [np.dtype(np.float32), jnp.dtype(jnp.bfloat16), np.float64(2.5), np.int64(3)]
    assert in_torch(value, path) == [torch.float32, torch.bfloat16, torch.tensor(2.5, dtype=torch.float64), torch.tensor(3)]


def test_what_is_one_stays_one(path):
    weight, shared = jnp.ones((2, 3)), [1]
    value = collections.OrderedDict(a=weight, b=weight, c=shared, d=shared, e={"deep": weight})
    read = in_torch(value, path)
    assert read["a"] is read["b"] is read["e"]["deep"]
    assert read["c"] is read["d"]
    got = fnn.load(path)
    assert got["a"] is got["b"] is got["e"]["deep"]
    assert got["c"] is got["d"]


def test_parameters_are_written_as_their_arrays(path):
    net = fnn.nn.Linear(3, 2)
    assert same(in_torch(net.state_dict(keep_vars=True), path), net.state_dict())
    assert same(in_torch([net.weight], path), [net.weight.value])


def test_tied_weights_of_a_module(path):
    net = fnn.nn.Sequential(fnn.nn.Linear(3, 3), fnn.nn.Linear(3, 3))
    net[1].weight = net[0].weight
    read = in_torch(net, path)
    assert read["0.weight"].data_ptr() == read["1.weight"].data_ptr()
    with zipfile.ZipFile(path) as archive:
        assert sum("/data/" in name for name in archive.namelist()) == 3


def test_views_of_one_array_share_a_storage(path):
    whole = np.arange(60.0).reshape(3, 4, 5)
    views = [whole, whole.transpose(2, 1, 0), whole[1:, ::2, 3], whole.reshape(-1)[7:8], whole.view(np.int64), whole[:, :1]]
    read = in_torch(views, path)
    assert same(read, views)
    assert len({tensor.untyped_storage().data_ptr() for tensor in read}) == 1
    assert [tensor.stride() for tensor in read[:3]] == [(20, 5, 1), (1, 5, 20), (20, 10)]
    assert same(views, fnn.load(path))


def test_what_is_not_an_array_of_torch_is_copied(path):
    whole = np.arange(1000.0)
    views = [
        whole[::-1],
        whole[::100],
        np.broadcast_to(np.float32(3), (5,)),
        whole.astype(">f8"),
        whole[:6].view(np.uint8)[3:9],
    ]
    read = in_torch(views, path)
    assert same(read, [view.astype(view.dtype.newbyteorder("=")) for view in views])
    assert read[1].untyped_storage().nbytes() == 80
    assert read[2].untyped_storage().nbytes() == 4


@settings(max_examples=25)
@given(st.data())
def test_any_views_of_any_arrays(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("views") / "file.pt"
    base = np.arange(48, dtype=data.draw(st.sampled_from([np.float32, np.int64, np.uint8]))).reshape(4, 3, 4)
    size = st.integers(-5, 5)
    step = st.sampled_from([None, 1, 2, -1, -2])
    views = []
    for _ in range(data.draw(st.integers(1, 4))):
        view = base[tuple(slice(data.draw(size), data.draw(size), data.draw(step)) for _ in range(3))]
        views.append(view.transpose(data.draw(st.permutations(range(3)))))
    assert same(in_torch(views, path), views)
    assert same(views, fnn.load(path))
    fnn.save({str(i): view for i, view in enumerate(views)}, path.with_suffix(".safetensors"))
    assert same(views, [value for _, value in sorted(fnn.load(path.with_suffix(".safetensors")).items())])


def test_equal_values_give_equal_bytes(tmp_path):
    def value():
        return {"b": np.arange(5.0), "a": jnp.ones(3), "s": {"y", "x", "z"}, "l": [1, "x" * 3, ("y",)]}

    paths = [tmp_path / name for name in ("one.pt", "two.bin")]
    for path in paths:
        fnn.save(value(), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    code = "import fnn, sys, jax.numpy as jnp, numpy as np; fnn.save({'s': {'y', 'x', 'z'}}, sys.argv[1])"
    contents = set()
    for seed in ("1", "2"):
        subprocess.run([sys.executable, "-c", code, paths[0]], env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
        contents.add(paths[0].read_bytes())
    assert len(contents) == 1


def test_large_archives_have_fields_of_64_bits(path, monkeypatch):
    monkeypatch.setattr(ArchiveWriter, "large", 100)
    value = {"a": np.arange(100.0), "b": np.arange(3)}
    for mmap in (False, True):
        assert same(in_torch(value, path, mmap=mmap), value)
    assert same(value, fnn.load(path))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_data_lie_at_multiples_of_64_bytes(path):
    fnn.save([np.arange(3, dtype=np.uint8), np.arange(5.0), np.arange(7.0)], path)
    with zipfile.ZipFile(path) as archive:
        content = path.read_bytes()
        for info in archive.infolist():
            start = (
                info.header_offset + 30 + len(info.filename) + int.from_bytes(content[info.header_offset + 28 :][:2], "little")
            )
            assert start % 64 == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [object()]}, r"state\['a'\]\[0\] is of type builtins.object; torch.load"),
        ({"a": collections.defaultdict(list)}, "collections.defaultdict"),
        ({"a": frozenset((1,))}, "builtins.frozenset"),
        ({"a": {np.float32(1)}}, r"state\['a'\].* is of type numpy.float32"),
        ({"a": np.array(["x"])}, r"state\['a'\] has the dtype <U1"),
        ({"a": np.array([None])}, "has the dtype object"),
        ({"a": jnp.ones(2, jnp.int4)}, "has the dtype int4"),
        ({"a": jax.random.key(0)}, "random key; save jax.random.key_data"),
        ({"a": 1 << 3000}, "3001 bits"),
    ],
)
def test_what_torch_would_not_read_is_refused_by_place(path, value, message):
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match=message):
        fnn.save(value, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["file.pt"]


def test_an_unknown_ending(tmp_path):
    with pytest.raises(ValueError, match=r"'file.npz' says no format: .*\.safetensors, \.pt"):
        fnn.save({}, tmp_path / "file.npz")


def test_optimizer_state(path):
    net = fnn.nn.Linear(3, 2)
    optimizer = fnn.optim.Optimizer(net, optax.adam(1e-3))
    fnn.backward(lambda net: net(jnp.ones(3)).sum(), net)
    optimizer.step()
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 1}
    assert same(in_torch(state, path)["optimizer"], optimizer.state_dict())
    other = fnn.optim.Optimizer(fnn.nn.Linear(3, 2), optax.adam(1e-3))
    other.load_state_dict(fnn.load(path)["optimizer"])
    assert same(other.state_dict(), optimizer.state_dict())


def test_arrays_over_several_devices(path):
    devices = jax.devices()
    mesh = jax.sharding.Mesh(devices[:1], "x")
    array = jax.device_put(jnp.arange(8.0), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x")))
    assert same(in_torch({"a": array}, path), {"a": array})
    got = fnn.load(path, device=array.sharding)
    assert got["a"].sharding == array.sharding
    assert same({"a": array}, got)


ON_FOUR = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import fnn, jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
path = sys.argv[1]
sharding = NamedSharding(jax.make_mesh((2, 2), ("x", "y")), PartitionSpec("x", "y"))
array = np.arange(24.0, dtype=np.float32).reshape(4, 6)
for name in ("file.pt", "file.safetensors"):
    fnn.save({"a": jax.device_put(array, sharding), "b": jnp.ones(3)}, f"{path}/{name}")
    got = fnn.load(f"{path}/{name}", device={"a": sharding, "b": "cpu:3"})
    assert got["a"].sharding == sharding and (np.asarray(got["a"]) == array).all()
    assert got["b"].devices() == {jax.devices()[3]}
"""


def test_shardings_over_four_devices(tmp_path):
    subprocess.run([sys.executable, "-c", ON_FOUR, tmp_path], check=True, timeout=100)
    assert torch.load(tmp_path / "file.pt", weights_only=True)["a"].tolist() == np.arange(24.0).reshape(4, 6).tolist()


def test_a_failing_write_leaves_the_old_file(path, monkeypatch):
    fnn.save({"a": np.ones(3)}, path)
    old = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    for target, name in ((atomic.os, "fsync"), (atomic.os, "replace"), (ArchiveWriter, "close")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, fail)
            with pytest.raises(OSError, match="No space left"):
                fnn.save({"a": np.zeros(3)}, path)
        assert path.read_bytes() == old
        assert os.listdir(path.parent) == ["file.pt"]


NO_ROOM = """
import fnn, numpy as np, os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for path in sys.argv[1:]:
    for size in (None, 90_000):
        try:
            fnn.save({"a": np.ones(5_000), "b": np.zeros(20_000)}, path, max_shard_size=size)
        except OSError as error:
            print(error.strerror)
"""
KILLED = """
import fnn, numpy as np, os, sys
from fnn.serialization import archive
archive.ArchiveWriter.close = lambda self: os._exit(9)
fnn.save({"a": np.zeros(5_000)}, sys.argv[1])
"""


def test_a_full_disk_and_a_crash_leave_the_old_file(tmp_path):
    names = ["file.pt", "file.safetensors"]
    for name in names:
        fnn.save({"a": np.arange(3)}, tmp_path / name)
    result = subprocess.run(
        [sys.executable, "-c", NO_ROOM, *(tmp_path / name for name in names)], capture_output=True, text=True, check=True
    )
    assert result.stdout == "File too large\n" * 4
    assert sorted(os.listdir(tmp_path)) == names
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path / "file.pt"], check=False).returncode == 9
    for name in names:
        assert fnn.load(tmp_path / name)["a"].tolist() == [0, 1, 2]


def test_a_file_can_be_written_over_itself(path):
    fnn.save({"a": np.arange(100_000.0)}, path)
    state = fnn.load(path)
    fnn.save({**state, "b": np.ones(2)}, path)
    assert state["a"].tolist() == fnn.load(path)["a"].tolist() == list(range(100_000))


def test_the_mode_of_a_file_and_a_link_to_it_stay(tmp_path):
    path, link = tmp_path / "file.pt", tmp_path / "link.pt"
    fnn.save({}, path)
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    path.chmod(0o640)
    link.symlink_to(path)
    fnn.save({"a": 1}, link)
    assert link.is_symlink()
    assert fnn.load(path) == {"a": 1}
    assert path.stat().st_mode & 0o777 == 0o640
