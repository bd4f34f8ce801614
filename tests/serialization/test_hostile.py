"""Damaged and hostile files of PyTorch's formats: each is refused with one type of error, and nothing in it is executed."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from serialization import fuzz
from serialization.files import FORMATS, packed, repacked

import fnn

if sys.platform != "linux":
    pytest.skip("limits of memory are read from /proc", allow_module_level=True)

FLOATS = np.arange(4, dtype=np.float32).tobytes()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def number(value):
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def storage(key=b"0", size=4, kind=b"FloatStorage", name=b"storage"):
    return b"(" + text(name) + b"ctorch\n" + kind + b"\n" + text(key) + text(b"cpu") + number(size) + b"tQ"


def tensor(offset=0, shape=(4,), strides=(1,), source=None, rest=b"\x89ccollections\nOrderedDict\n)R"):
    sizes = (b"(" + b"".join(map(number, values)) + b"t" for values in (shape, strides))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + (source or storage()) + number(offset) + b"".join(sizes) + rest + b"tR"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.pt"


def load_pickle(path, body, start=b"\x80\x02", **members):
    path.write_bytes(packed({"data.pkl": start + body + b".", "data/0": FLOATS, "version": b"3\n", **members}))
    return fnn.load(path)


def refused(path, message):
    with pytest.raises(fnn.CheckpointError, match=message) as error:
        fnn.load(path)
    assert str(error.value).startswith(f"{path}: ")


def test_the_pickles_of_these_tests_are_read_where_they_are_honest(path):
    assert load_pickle(path, tensor()).tolist() == [0, 1, 2, 3]
    assert load_pickle(path, tensor(1, (2, 2), (1, 0))).tolist() == [[1, 1], [2, 2]]
    assert torch.load(path, weights_only=True).tolist() == [[1, 1], [2, 2]]


class Calls:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("function", [os.system, exec, eval, __import__, getattr, pickle.loads, subprocess.Popen, np.load])
def test_no_function_is_called(path, tmp_path, format, protocol, function):
    target = tmp_path / "touched"
    command = f"touch {target}" if function is os.system else f"open({str(target)!r}, 'w')"
    torch.save({"a": torch.ones(2), "b": Calls(function, command)}, path, pickle_protocol=protocol, **FORMATS[format])
    refused(path, f"asks for '[a-z._]*{function.__name__}': it is none of")
    assert not target.exists()
    fnn.load(path, skip_unknown=True)
    assert not target.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"(ios\nsystem\n", r"instruction b'i'"),
        (b"\x82\x01", r"instruction b'\\x82'"),
        (b"(cos\nsystem\nX\x01\0\0\0ao", "os.system"),
        (b"ccollections\nOrderedDict.fromkeys\n", r"OrderedDict\.fromkeys"),
        (b"\x8c\x02os\x8c\x06system\x93", "os.system"),
        (b"N\x8c\x06system\x93", "a name that is no string"),
        (b"c" + b"a" * 5000, "a name that does not end"),
        (b"K\x01)R", "calls a value of type int"),
        (b"ctorch\nfloat32\n)R", "calls a value of type"),
        (b"ccollections\nOrderedDict\nK\x01R", "arguments that are no tuple"),
        (b"K\x01}b", "sets the state of a value of type int"),
        (b"ccollections\nOrderedDict\n}b", "sets the state of a value of type Call"),
        (b"ccollections\nOrderedDict\n)R}" + text(b"items") + b"Nsb", "would hide a method"),
        (b"ctorch\nSize\n](K\x01K\x02e\x85RK\x01a", "appends to a value of type tuple"),
        (b"K\x01K\x02K\x03s", "sets items of a value of type int"),
        (b"}]Ns", "a key or a member of a set is of type list"),
        (b"\x8f(]\x90", "a key or a member of a set is of type list"),
        (b"}" + tensor() + b"Ns", "a key or a member of a set is of type Tensor"),
        (b"})" + b"\x85" * 100_000 + b"Ns", "too deep"),
        (b"}" + number(2**61) + b"Ns", "too large"),
        (b"]" * 300 + b"a" * 299, "200 deep, or in themselves"),
        (b"]q\0h\0a", "in themselves"),
        (b"]q\0h\0\x85q\x01ah\x01\x86", "in themselves|damaged"),
        (b")" + b"\x85" * 300, "200 deep"),
        (b"Nr\xff\xff\xff\xff", "more memory"),
        (b"\x8e" + b"\xff" * 8, "cut off"),
        (b"\x8d" + b"\xff" * 7 + b"\x7f", "cut off"),
        (b"X\xff\xff\xff\xff", "cut off"),
        (b"\x8b\xff\xff\xff\x7f", "instruction"),
        (b"h\x07", "IndexError"),
        (b"N" * 3, "ValueError"),
        (b"", "ValueError"),
        (b"\x86", "more values than there are"),
        (b"e", "IndexError"),
        (text(b"\xff\xff"), "UnicodeDecodeError"),
        (b"ccollections\nOrderedDict\n", "holds a class"),
        (b"ctorch\nTensor\n", "holds a class"),
        (storage(), "holds a class or a storage"),
        (b"K\x01Q", "outside of it"),
        (storage(name=b"module"), "outside of it"),
        (storage(key=b"9"), r"no member 'data/9'"),
        (storage(key=b"../0"), r"no member 'data/\.\./0'"),
        (storage(size=5), "has 16 bytes in the archive, and 20 in the pickle"),
        (storage(size=-1), "unknown type or size"),
        (storage(size=2**64), "unknown type or size"),
        (storage(kind=b"float32"), "unknown type or size"),
        (storage(kind=b"QInt8Storage"), "quantized tensors are not read"),
        (tensor(offset=1), "beyond its storage"),
        (tensor(offset=-1), "an? offset"),
        (tensor(offset=2**62), "beyond its storage"),
        (tensor(shape=(5,)), "beyond its storage"),
        (tensor(shape=(-1,)), "a shape"),
        (tensor(shape=(2**40, 2**40), strides=(0, 0)), "beyond its storage"),
        (tensor(shape=(2**80,), strides=(0,)), "a shape"),
        (tensor(strides=(2,)), "beyond its storage"),
        (tensor(strides=(-1,)), "a strides"),
        (tensor(strides=(1, 1)), "1 axes and 2 strides"),
        (tensor(shape=(1,) * 65, strides=(1,) * 65), "65 axes"),
        (tensor(shape=(0, 2**62, 2**62), strides=(1, 1, 1)), "no shape of an array"),
        (tensor(source=b"N"), "no storage"),
        (tensor(shape=(2**40,), strides=(0,), rest=b"\x89N}" + text(b"neg") + b"\x88s"), "more memory"),
        (tensor(rest=b"\x89N}" + text(b"else") + b"\x88s"), "unknown properties"),
        (b"ctorch._utils\n_rebuild_parameter\n(K\x01\x88NtR", "a parameter has no tensor"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(K\x01ctorch\nTensor\n)}tR", "of unknown type"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(c_codecs\nencode\nctorch\nTensor\n)}tR", "of unknown type"),
        (b"ccollections\nOrderedDict\n](K\x01\x85K\x02\x86e\x85R", "a key or a member of a set is of type tuple"),
        (b"cnumpy\ndtype\n(" + text(b"O8") + b"\x89\x88tR", "no plain numbers"),
        (b"cnumpy\ndtype\n(" + text(b"V8") + b"\x89\x88tR", "no plain numbers"),
        (b"cnumpy.core.multiarray\n_reconstruct\n)R", "damaged"),
        (b"c_codecs\nencode\n" + text(b"a") + text(b"rot13") + b"\x86R", "bytes are damaged"),
        (b"cbuiltins\nbytearray\n" + number(2**40) + b"\x85R", "a bytearray is damaged"),
        (b"cbuiltins\nset\nK\x01\x85R", "a container is damaged"),
    ],
)
def test_hostile_pickles(path, body, message):
    with pytest.raises(fnn.CheckpointError, match=message) as error:
        load_pickle(path, body)
    assert str(error.value).startswith(f"{path}: ")


PAIRS = b"".join(b"J" + struct.pack("<i", i) + b"N\x86" for i in range(300_000))
HUGE_KEY = text(b"k" * 5_000_000) + b"q\0"
BOMBS = {
    "copies of a tuple": b"(" + PAIRS + b"tq\0\x85q\1(ccollections\nOrderedDict\nq\2" + b"h\2h\1R" * 10 + b"t",
    "sets": b"\x8f" * 700_000,
    "lists": b"(" + b"]" * 700_000,
    "tuples in tuples": b")" + b"\x85" * 1_800_000,
    "strings by code": b"c_codecs\nencode\nq\0" + text(b"a" * 1_000_000) + text(b"latin1") + b"\x86q\1" + b"h\0h\1R" * 1000,
    "dicts by code": b"ccollections\nOrderedDict\nq\0" + b"h\0)R" * 400_000,
    "wide characters": text("é".encode() * 20_000_000 + "\N{GRINNING FACE}".encode()),
    "slow keys": b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"\x85N" for i in range(100_000)) + b"u",
    "slow members": b"cbuiltins\nset\n](" + b"".join(b"J" + struct.pack("<i", i) + b"\x85" for i in range(100_000)) + b"e\x85R",
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_ask_for_much_memory(path, name):
    """In a process that may take 256 MiB beyond the size of the file."""
    path.write_bytes(packed({"data.pkl": b"\x80\x02" + BOMBS[name] + b"."}))
    assert fuzz.in_child([(str(path), path.stat().st_size, "")]) == ["refused"]


def test_long_names_are_not_kept_for_all_that_is_below_them(path):
    """190 dicts in each other with the same key of 5 MB, and 60 tensors under it."""
    views = b"".join(b"}h\0" + tensor(shape=(1,) * i, strides=(1,) * i) + b"s" for i in range(1, 60))
    content = packed(
        {"data.pkl": b"\x80\x02(" + HUGE_KEY + b"}" + b"h\0}" * 190 + b"s" * 190 + views + b"t.", "data/0": FLOATS}
    )
    path.write_bytes(content)
    assert fuzz.in_child([(str(path), len(content), "")]) == ["read otherwise"]


def test_names_of_unknown_classes_count(path):
    name = text("\N{GRINNING FACE}".encode() * 1000)
    path.write_bytes(packed({"data.pkl": b"\x80\x02(" + name + b"q\0" + b"h\0h\0\x93" * 50_000 + b"t."}))
    with pytest.raises(fnn.CheckpointError, match="more memory"):
        fnn.load(path, skip_unknown=True)


def test_long_names_of_members(path):
    path.write_bytes(packed({"data.pkl": b"\x80\x02N.", "x" * 1000: b""}))
    refused(path, "directory is damaged")


def test_many_small_arrays_on_a_device_count_what_jax_takes(path, monkeypatch):
    torch.save([torch.ones(i) for i in range(20)], path)
    monkeypatch.setattr("fnn.serialization.placing.ALLOWANCE", 10 * 4096)
    assert len(fnn.load(path)) == 20
    with pytest.raises(fnn.CheckpointError, match="the tensors take more memory"):
        fnn.load(path, device="cpu")


def test_containers_that_repeat_themselves_are_no_problem(path):
    """60 lists, each of which holds the one before twice: 2 ** 60 paths."""
    got = load_pickle(path, b"(]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b"t")
    assert len(got) == 61
    assert got[60][0] is got[60][1] is got[59]


def members(path):
    file = io.BytesIO()
    torch.save({"a": torch.arange(100.0), "b": torch.ones(3)}, file)
    path.write_bytes(file.getvalue())
    return file.getvalue()


def test_every_truncation_is_refused(path):
    for options in FORMATS.values():
        torch.save({"a": torch.arange(5.0)}, path, **options)
        content = path.read_bytes()
        for size in [*range(0, len(content), 7), len(content) - 1]:
            path.write_bytes(content[:size])
            refused(path, "")


def test_content_behind_the_end(path):
    content = members(path)
    path.write_bytes(content + b"x")
    refused(path, "end of the archive is missing")
    path.write_bytes(b"PK" + content)
    refused(path, "end of the archive is damaged")


def with_zipfile(path, change, **options):
    """The archive as Python's zipfile writes it, changed."""
    content = members(path)
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w", **options) as new:
        for name in old.namelist():
            change(new, name, old.read(name))


def test_archives_of_another_writer_are_read(path):
    with_zipfile(path, lambda archive, name, content: archive.writestr(name, content))
    assert fnn.load(path)["a"].tolist() == list(range(100))


def test_compressed_members(path):
    with_zipfile(path, lambda archive, name, content: archive.writestr(name, content), compression=zipfile.ZIP_DEFLATED)
    refused(path, "is compressed, which PyTorch does not do: unpack the archive, pack it with zip -0")
    with_zipfile(path, lambda archive, name, content: archive.writestr(name, content, 8 if name.endswith("data/0") else 0))
    refused(path, "data/0' is compressed")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_a_name(path):
    def twice(archive, name, content):
        for _ in range(2):
            archive.writestr(name, content)

    with_zipfile(path, twice)
    refused(path, r"two members of the name 'archive/data\.pkl'")


@pytest.mark.parametrize("name", ["../x", "/x", "archive/../../x", "archive/..", "a\\b", "archive/data/0\0x"])
def test_names_that_lead_out_of_the_archive(path, name):
    def add(archive, old, content):
        archive.writestr(old, content)
        if old.endswith("version"):
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, b"")

    with_zipfile(path, add)
    refused(path, "leads out of it")


def test_an_archive_that_torch_did_not_write(path):
    for names in (["a.txt"], ["archive/x"], ["archive/data.pkl", "other/x"]):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"")
        refused(path, r"torch\.save did not write")


def edit_entry(content, name, field, value, size=4):
    """The archive with a field of the entry of a member in the directory changed."""
    at = content.rindex(b"PK\1\2", 0, content.rindex(name))
    assert content[at + 46 :].startswith(b"archive/" + name) or content[at + 46 :].startswith(b"file/" + name)
    return content[: at + field] + value.to_bytes(size, "little") + content[at + field + size :]


def test_members_that_lie_in_each_other(path):
    content = packed({"data.pkl": b"\x80\x02N.", "data/0": FLOATS, "data/1": FLOATS})
    first = int.from_bytes(content[content.rindex(b"archive/data/0") - 4 :][:4], "little")
    path.write_bytes(edit_entry(content, b"data/1", 42, first))
    refused(path, "the two headers of 'archive/data/1' differ")
    twin = content.replace(b"archive/data/1", b"archive/data/0", 1)
    path.write_bytes(edit_entry(twin, b"data/1", 42, first))
    refused(path, "differ")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (16, 1, "two headers|checksum"),
        (20, 10_000, "damaged"),
        (24, 10_000, "damaged"),
        (42, 0, "two headers"),
        (42, 2**31, "unpack_from|damaged"),
        (10, 8, "two headers"),
        (8, 1, "encrypted"),
        (28, 60_000, "damaged|two headers"),
    ],
)
def test_entries_that_are_wrong(path, field, value, message):
    content = packed({"data.pkl": b"\x80\x02N.", "data/0": FLOATS})
    path.write_bytes(edit_entry(content, b"data/0", field, value, 2 if field in (8, 10, 28) else 4))
    refused(path, message)


def test_both_headers_say_a_size_beyond_the_file(path):
    content = packed({"data.pkl": b"\x80\x02N.", "data/0": FLOATS})
    for sizes in ((20, 24), (18, 22)):
        at = content.rindex(b"PK\1\2") if sizes[0] == 20 else content.rindex(b"PK\3\4")
        for field in sizes:
            content = content[: at + field] + struct.pack("<I", 2**30) + content[at + field + 4 :]
    path.write_bytes(content)
    refused(path, "lie in each other")


def test_an_unknown_byte_order(path):
    path.write_bytes(repacked(members(path), lambda name, old: b"middle" if name == "byteorder" else old))
    refused(path, "unknown byte order")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (struct.pack("<q", 100), struct.pack("<q", 101), "cut off, or has two sizes"),
        (struct.pack("<q", 100), struct.pack("<q", -1), "cut off, or has two sizes"),
        (b"K\x64Nt", b"M\xff\xffNt", "has 262140 bytes, and the file"),
        (b"K\x64Nt", b"K\x63Nt", "beyond its storage"),
        (b"M\xe9\x03.", b"M\xea\x03.", "unknown version"),
        (b"FloatStorage", b"DoubleStorage", "two sizes|beyond|bytes"),
    ],
)
def test_damage_of_the_older_format(path, old, new, message):
    torch.save(torch.arange(100.0), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    refused(path, message)


def test_the_storages_of_the_older_format_are_those_that_are_needed(path):
    torch.save([torch.ones(2), torch.ones(3)], path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    names = pickle.loads(content[content.rindex(b"\x80\x02]") :])
    for wrong in (names[:1], [names[0]] * 2, [*names, "9"], dict.fromkeys(names), [1, 2]):
        at = content.rindex(b"\x80\x02]")
        path.write_bytes(content[:at] + pickle.dumps(wrong, 2) + content[content.index(b".", at) + 1 :])
        refused(path, "not those|no string")


def test_a_small_fuzz(tmp_path):
    """200 of the files that `python tests/serialization/fuzz.py` reads by the thousand."""
    table, wrong = fuzz.run(200, 1, tmp_path)
    assert not wrong
    assert sum(sum(row.values()) for row in table.values()) == 200


@pytest.mark.parametrize(
    ("reader", "expected"),
    [
        ("lambda path: torch.load(path, weights_only=False)", "ran code"),
        ("lambda path: bytearray(1 << 29)", "memory"),
        ("lambda path: os.kill(os.getpid(), 11)", "signal 11"),
        ("lambda path: time.sleep(60)", "hung"),
        ("lambda path: {}[path]", "raised KeyError"),
        ("lambda path: 3", "read otherwise"),
    ],
)
def test_the_fuzz_sees_what_it_looks_for(path, monkeypatch, reader, expected):
    torch.save(Calls(os.system, "true"), path)
    monkeypatch.setattr(fuzz, "load", eval(reader, {"torch": torch, "os": os, "time": __import__("time")}))
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    assert fuzz.in_child([(str(path), path.stat().st_size, "")]) == [expected]
