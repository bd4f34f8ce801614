"""Checkpoints in several files, as Hugging Face's folders have them."""

import collections
import json
import os
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from serialization.files import same

import fnn
from fnn.serialization import writing

SUFFIXES = [".safetensors", ".bin", ".pt"]


def state():
    entries = collections.OrderedDict((f"w{i}", np.full(100, i, np.float32)) for i in range(6))
    entries["tied"] = entries["w1"]
    entries._metadata = collections.OrderedDict({"": {"version": 1}})
    return entries


def huggingface(folder, suffix=".safetensors", stem="model", index=True):
    """A folder as the library transformers writes it; returns its tensors."""
    parts = [{"a": torch.ones(2), "b": torch.zeros(3)}, {"c": torch.arange(4)}]
    names = [f"{stem}-{i:05}-of-00002{suffix}" for i in (1, 2)]
    for name, part in zip(names, parts, strict=True):
        safetensors.torch.save_file(part, folder / name) if suffix == ".safetensors" else torch.save(part, folder / name)
    weight_map = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    if index:
        write_index(folder / f"{stem}{suffix}.index.json", dict(reversed(weight_map.items())))
    return {**parts[1], **parts[0]}


def write_index(path, weight_map):
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


@pytest.mark.parametrize(("suffix", "stem"), [(".safetensors", "model"), (".bin", "pytorch_model")])
def test_folders_of_hugging_face(tmp_path, suffix, stem):
    expected = huggingface(tmp_path, suffix, stem)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "training_args.bin").write_bytes(b"")
    for path in (tmp_path, tmp_path / f"{stem}{suffix}.index.json", tmp_path / f"{stem}{suffix}"):
        got = fnn.load(path)
        assert same(collections.OrderedDict(sorted(expected.items())), collections.OrderedDict(sorted(got.items())))
        assert list(got) == ["c", "b", "a"]


def test_shards_without_an_index(tmp_path):
    expected = huggingface(tmp_path, index=False)
    assert fnn.load(tmp_path).keys() == expected.keys()
    os.unlink(tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(fnn.CheckpointError, match="of 2 shards there are only"):
        fnn.load(tmp_path)


def test_links_as_in_a_cache(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    huggingface(tmp_path / "blobs")
    for name in os.listdir(tmp_path / "blobs"):
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / name)
    assert list(fnn.load(tmp_path / "snapshot")) == ["c", "b", "a"]


def test_a_folder_of_one_file_and_of_both_formats(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.pth")
    assert list(fnn.load(tmp_path)) == ["a"]
    fnn.save({"b": np.ones(2)}, tmp_path / "model.safetensors")
    torch.save({"b": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert list(fnn.load(tmp_path)) == ["b"]


def test_a_folder_that_says_nothing(tmp_path):
    with pytest.raises(fnn.CheckpointError, match="the folder has no checkpoint"):
        fnn.load(tmp_path)
    for name in ("a.pt", "b.pt"):
        torch.save({}, tmp_path / name)
    with pytest.raises(fnn.CheckpointError, match=r"several checkpoints, name one of them: a\.pt, b\.pt"):
        fnn.load(tmp_path)


@pytest.mark.parametrize("name", ["../x.bin", "/etc/passwd", "a/b.bin", "..", "", "a\\b.bin", "C:x.bin", 3, None, ["x"]])
def test_an_index_that_leads_out_of_its_folder(tmp_path, name):
    path = tmp_path / "model.bin.index.json"
    write_index(path, {"a": name})
    with pytest.raises(fnn.CheckpointError, match=r"model\.bin\.index\.json: the index names the file .* not in its folder"):
        fnn.load(path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"weight_map": []}', '{"weight_map": 3}', "[" * 100_000, "\xff"])
def test_damaged_indices(tmp_path, content):
    path = tmp_path / "model.bin.index.json"
    path.write_text(content, encoding="latin1")
    with pytest.raises(fnn.CheckpointError, match="no index of shards"):
        fnn.load(path)


def test_an_index_that_is_too_large(tmp_path):
    path = tmp_path / "model.bin.index.json"
    path.write_bytes(b"[" * 6_000_000)
    with pytest.raises(fnn.CheckpointError, match="larger than the files beside it"):
        fnn.load(path)


def test_an_index_and_shards_that_do_not_fit(tmp_path):
    huggingface(tmp_path)
    path, first, second = tmp_path / "model.safetensors.index.json", *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    write_index(path, {"a": first, "c": first})
    with pytest.raises(fnn.CheckpointError, match=r"model-00001-of-00002.safetensors: 'c' is not there"):
        fnn.load(path)
    write_index(path, {"a": first, "c": "gone.safetensors"})
    with pytest.raises(FileNotFoundError):
        fnn.load(path)
    shutil.copy(tmp_path / first, tmp_path / second)
    write_index(path, {"a": first, "b": second})
    with pytest.raises(fnn.CheckpointError, match=f"{second}: 'a' is in {first} as well"):
        fnn.load(path)
    torch.save([torch.ones(1)], tmp_path / "list.bin")
    write_index(path, {"a": "list.bin"})
    with pytest.raises(fnn.CheckpointError, match="the shard holds no dict"):
        fnn.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sharded_writing(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    fnn.save(state(), path, max_shard_size="1KB")
    names = [f"model-{i:05}-of-00003{suffix}" for i in (1, 2, 3)]
    assert sorted(os.listdir(tmp_path)) == sorted([*names, f"model{suffix}.index.json"])
    index = json.loads((tmp_path / f"model{suffix}.index.json").read_text())
    assert index["metadata"] == {"total_size": 2400, "written_by": "fnn"}
    for name in names:
        part = safetensors.torch.load_file(tmp_path / name) if suffix == ".safetensors" else torch.load(tmp_path / name)
        assert all(index["weight_map"][key] == name for key in part)
    for where in (tmp_path, path, tmp_path / f"model{suffix}.index.json"):
        got = fnn.load(where)
        assert list(got) == list(state())
        assert got["tied"] is got["w1"]
        assert all(same(value, got[name]) for name, value in state().items())
        if suffix != ".safetensors":
            assert got._metadata == state()._metadata


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_under_the_path_goes_when_the_new_is_complete(tmp_path, suffix):
    path, other = tmp_path / f"model{suffix}", tmp_path / f"model-00009-of-00009{suffix}"
    other.write_bytes(b"not of this checkpoint")
    count = {}
    for size in (None, 1000, 1000, 500, "1GB", 1000, None):
        fnn.save(state(), path, max_shard_size=size)
        assert list(fnn.load(path))[:6] == list(state())[:6]
        count[size] = len(os.listdir(tmp_path))
    assert count == {None: 2, 1000: 5, 500: 8, "1GB": 2}
    assert other.exists()


def test_files_that_fnn_did_not_write_stay(tmp_path):
    huggingface(tmp_path)
    before = set(os.listdir(tmp_path))
    fnn.save({"a": np.ones(3)}, tmp_path / "model.safetensors")
    assert set(os.listdir(tmp_path)) == before | {"model.safetensors"}
    assert fnn.load(tmp_path)["a"].tolist() == [1, 1, 1]
    fnn.save(state(), tmp_path / "model.safetensors", max_shard_size=1000)
    assert before < set(os.listdir(tmp_path))
    assert list(fnn.load(tmp_path)) == list(state())


@pytest.mark.parametrize("broken", ["first shard", "last shard", "index"])
def test_a_failing_write_leaves_the_old_shards(tmp_path, monkeypatch, broken):
    path = tmp_path / "model.safetensors"
    fnn.save({name: value + 1 for name, value in state().items()}, path, max_shard_size=1000)
    before = sorted(os.listdir(tmp_path))
    replacing = writing.replacing
    calls = []

    def failing(target):
        calls.append(target)
        if len(calls) == {"first shard": 1, "last shard": 3, "index": 4}[broken]:
            raise OSError(28, "No space left on device")
        return replacing(target)

    monkeypatch.setattr(writing, "replacing", failing)
    with pytest.raises(OSError, match="No space"):
        fnn.save(state(), path, max_shard_size=1000)
    assert sorted(os.listdir(tmp_path)) == before
    assert fnn.load(path)["w3"][0] == 4


def test_one_large_array_is_a_shard_of_its_own_and_other_values_are_in_the_first(tmp_path):
    path = tmp_path / "model.pt"
    fnn.save({"step": 3, "a": np.ones(100), "b": np.ones(1000), "c": np.ones(1)}, path, max_shard_size=1000)
    assert len(os.listdir(tmp_path)) == 4
    assert list(fnn.load(path)) == ["step", "a", "b", "c"]
    with pytest.raises(TypeError, match=r"state\['x'\] holds arrays in containers"):
        fnn.save({"x": {"y": np.ones(3)}}, path, max_shard_size=1000)
    with pytest.raises(TypeError, match="only a dict"):
        fnn.save([np.ones(3)], path, max_shard_size=1000)


@pytest.mark.parametrize("size", ["5 parsecs", "", "-1", 0, "GB", 1.5j])
def test_sizes_that_are_none(tmp_path, size):
    with pytest.raises(ValueError, match="a size is a number of bytes"):
        fnn.save({}, tmp_path / "model.pt", max_shard_size=size)
