"""`python -m fnn inspect` and `python -m fnn convert`."""

import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from serialization.files import same

import fnn
from fnn.__main__ import main


@pytest.fixture
def path(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2).to(torch.bfloat16))
    state = net.state_dict()
    state["tied"] = state["0.weight"]
    torch.save({"model": state, "epoch": 3}, tmp_path / "file.pt")
    return tmp_path / "file.pt"


TABLE = """\
name                         shape  dtype     size
model.0.weight               2x3    float32   24 B
model.0.bias                 2      float32   8 B
model.1.weight               2      bfloat16  4 B
model.1.bias                 2      bfloat16  4 B
model.1.running_mean         2      bfloat16  4 B
model.1.running_var          2      bfloat16  4 B
model.1.num_batches_tracked  ()     int64     8 B
model.tied                   2x3    float32   24 B  the same as model.0.weight
8 tensors, 17 elements, 56 B
"""


def test_inspect(path, capsys):
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out == TABLE


def test_inspect_reads_no_tensor_and_prints_no_control_characters(tmp_path, capsys):
    fnn.save({"\x1b[2Ja": np.full(1000, 7, np.uint8), "b": np.ones((2000, 1000))}, tmp_path / "file.pt")
    content = (tmp_path / "file.pt").read_bytes()
    (tmp_path / "file.pt").write_bytes(content.replace(b"\7\7\7\7", b"\7\7\6\7", 1))
    assert main(["inspect", str(tmp_path / "file.pt")]) == 0
    out = capsys.readouterr().out
    assert "'\\x1b[2Ja'" in out
    assert "\x1b" not in out
    assert "15.3 MiB" in out


def test_inspect_of_long_names_shows_their_end(tmp_path, capsys):
    fnn.save({"a" * 5000: {"weight": np.ones(2, np.float32)}, "b": np.ones(3, np.float32)}, tmp_path / "file.pt")
    assert main(["inspect", str(tmp_path / "file.pt")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("aaa")
    assert "aa.weight  2      float32  8 B" in lines[1]
    assert max(map(len, lines)) < 400


def test_convert_there_and_back(path, tmp_path, capsys):
    target, back = tmp_path / "file.safetensors", tmp_path / "back.pt"
    assert main(["convert", str(path), str(target), "--key", "model"]) == 0
    assert main(["convert", str(target), str(back)]) == 0
    assert main(["convert", str(path), str(tmp_path / "same.pt")]) == 0
    assert capsys.readouterr().out == ""
    expected = torch.load(path)["model"]
    read, again = safetensors.torch.load_file(target), torch.load(back, weights_only=True)
    assert all(same(expected[name], again[name]) for name in expected)
    assert all(same(expected[name], read[name]) for name in read)
    assert same(torch.load(path), torch.load(tmp_path / "same.pt"))


def test_convert_an_inner_entry_into_shards(tmp_path):
    torch.save({"a.b": {"c": {"x": torch.ones(300), "y": torch.ones(300)}}}, tmp_path / "file.pt")
    target = tmp_path / "model.safetensors"
    assert main(["convert", str(tmp_path / "file.pt"), str(target), "--key", "a.b.c", "--max-shard-size", "1.2KB"]) == 0
    assert list(fnn.load(target)) == ["x", "y"]
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "gone.pt"], "No such file"),
        (["inspect", "text.pt"], "neither a file of torch.save nor of safetensors"),
        (["convert", "file.pt", "out.xyz"], "says no format"),
        (["convert", "file.pt", "out.safetensors"], "holds arrays by name and nothing else, not 'model'"),
        (["convert", "file.pt", "out.safetensors", "--key", "modal"], "there is no entry 'modal'; there is model, epoch"),
        (["convert", "file.pt", "out.safetensors", "--key", "epoch.x"], "there is no entry 'x'; there is a int"),
        (["convert", "file.pt", "no/folder/out.pt"], "No such file"),
    ],
)
def test_errors_are_one_line_and_a_status(path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(path.parent)
    (path.parent / "text.pt").write_text("hello")
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"python -m fnn {arguments[0]}: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_wrong_usage():
    for arguments in ([], ["convert", "a.pt"], ["other"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_skip_unknown(tmp_path, capsys):
    torch.save({"a": torch.ones(2), "b": np.random.default_rng}, tmp_path / "file.pt")
    assert main(["inspect", str(tmp_path / "file.pt")]) == 1
    assert main(["inspect", str(tmp_path / "file.pt"), "--skip-unknown"]) == 0
    assert "1 tensors, 2 elements" in capsys.readouterr().out


def test_as_a_module(path):
    result = subprocess.run([sys.executable, "-m", "fnn", "inspect", path], capture_output=True, text=True, check=True)
    assert result.stdout == TABLE
