"""The main job runs from the command line and keeps its promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def digits(*arguments):
    for package in ("matplotlib", "sklearn", "tqdm"):
        pytest.importorskip(package)
    return subprocess.run(
        [sys.executable, ROOT / "examples" / "digits.py", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_digits_trains_both_faces_and_ends_with_a_table_and_a_picture(tmp_path):
    picture = tmp_path / "new folder" / "digits.png"
    result = digits("--out", picture)
    assert result.returncode == 0, result.stdout + result.stderr

    table = {line[:32].strip(): line[32:].split() for line in result.stdout.splitlines()}
    assert table[""] == ["stateful", "functional"]
    accuracy = [float(cell.rstrip("%")) for cell in table["test accuracy"]]
    assert len(accuracy) == 2
    assert min(accuracy) >= 97
    step_time = [float(cell) for cell in table["time a step, median (ms)"]]
    assert len(step_time) == 2
    assert min(step_time) > 0
    difference = re.search(r"^largest difference between the two loss curves: (\S+)$", result.stdout, re.MULTILINE)
    assert float(difference[1]) <= 1e-5

    # The progress bar.
    assert re.search(r"100%.*12/12.*accuracy=\d+\.\d%, loss=0\.\d+", result.stderr)

    from matplotlib import image

    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = image.imread(picture)
    assert 400 <= pixels.shape[0] <= 2000
    assert 600 <= pixels.shape[1] <= 3000
    dark = np.mean(pixels[..., :3].mean(axis=-1) < 0.9)
    assert 0.005 < dark < 0.5  # neither blank nor a smear


def test_digits_says_what_it_missed(tmp_path):
    result = digits("--out", tmp_path / "digits.png", "--epochs", 1)
    assert result.returncode == 1
    assert re.fullmatch(r"Missed: the test accuracy is \d+\.\d%, below 97 %\.", result.stderr.splitlines()[-1])
    assert "Traceback" not in result.stderr
