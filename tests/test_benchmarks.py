"""The benchmark runs from its command to its report, and its statistics are right."""

import importlib.util
import json
import math
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


harness = load("harness")


@pytest.mark.parametrize(("count", "rank"), [(6, 1), (8, 1), (9, 2), (20, 6), (30, 10), (100, 40)])
def test_the_interval_of_a_median_has_the_ranks_of_the_tables(count, rank):
    values = random.sample(range(1, count + 1), count)
    assert harness.interval(values) == (rank, statistics.median(values), count + 1 - rank)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_of_few_values_the_interval_has_all(count):
    assert harness.interval(range(count)) == (0, statistics.median(range(count)), count - 1)


def test_the_geometric_mean_does_not_care_which_is_the_base():
    assert harness.geometric_mean([2.0, 0.5, 3.0, 1 / 3]) == pytest.approx(1.0)
    assert math.isnan(harness.geometric_mean([]))


def test_a_ratio_is_of_the_pairs_of_a_round():
    ratio = harness.ratios({"fnn": [1.0, 20.0, 3.0], "peer": [2.0, 40.0]})["peer"]
    assert ratio == (0.5, 0.5, 0.5)


def test_contenders_take_turns_and_a_slow_one_sits_rounds_out():
    calls = {"fnn": lambda: None, "slow": lambda: time.sleep(0.1)}
    times = harness.interleaved(calls, share=0.15, rounds=12, least=4)  # a turn of fnn takes less than twice harness.BLOCK
    assert {name: len(values) for name, values in times.items()} == {"fnn": 12, "slow": 4}
    assert min(times["slow"]) > 0.09 > statistics.median(times["fnn"])


def test_a_journal_goes_on_behind_half_a_line(tmp_path):
    path = tmp_path / "results.jsonl"
    first = harness.Journal(path, resume=False)
    first.add("layer", "a", value=1)
    first.add("layer", "failed", error="out of memory")
    with path.open("a") as file:
        file.write('{"key": ["layer", "b"], "val')
    second = harness.Journal(path, resume=True)
    assert second.has("layer", "a")
    assert not second.has("layer", "failed")
    assert not second.has("layer", "b")
    second.add("layer", "c", value=3)
    assert [record["key"][1] for record in harness.Journal(path, resume=True).records] == ["a", "c"]
    assert harness.Journal(path, resume=False).records == []


@pytest.mark.parametrize(
    "wrong",
    [np.array([1.0, 2.01], np.float32), np.array([1.0, np.nan], np.float32), np.array([[1.0, 2.0]], np.float32)],
    ids=["value", "nan", "shape"],
)
def test_what_computes_something_else_is_not_timed(wrong, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    contenders = load("contenders")
    right = np.array([1.0, 2.0], np.float32)
    contenders.check("fnn", [right + 1e-6], [right], "float32")
    with pytest.raises(contenders.Wrong, match="fnn"):
        contenders.check("fnn", [wrong], [right], "float32")


def test_two_cases_from_the_command_to_the_report(tmp_path):
    for package in ("torch", "flax", "equinox", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    command = [sys.executable, BENCHMARKS / "run.py", "--quick", "--rounds", "6", "--hours", "0.001", "--dtype", "float32"]
    command += ["--only", "layer/layer norm/*", "--out", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    records = json.loads((tmp_path / "results.json").read_text())["records"]
    assert [record["key"][4] for record in records] == ["forward", "gradient"]
    for record in records:
        assert "error" not in record, record["error"]
        assert record["failures"] == {}
        assert set(record["ratios"]) == {"torch", "stock", "flax", "equinox"}
        assert all(0 < low <= median <= high for low, median, high in record["ratios"].values())
    text = (tmp_path / "results.md").read_text()
    assert "| layer norm, 128x768, gradient |" in text
    assert "| Never slower than stock JAX: lower 95 % bound below 1.05 |" in text
    assert "</svg>" in (tmp_path / "results.svg").read_text()
    assert not (tmp_path / "results.jsonl").exists()
