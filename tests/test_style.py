"""What tools check: style, types, and what an import does."""

import importlib.util
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def tool(name, *arguments):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}")
    result = run("-m", name, *arguments)
    assert result.returncode == 0, f"{name} {' '.join(arguments)}\n{result.stdout}{result.stderr}"


def test_ruff_check():
    tool("ruff", "check")


def test_ruff_format():
    tool("ruff", "format", "--check")


def test_mypy():
    tool("mypy")


def test_importing_fnn_imports_no_extra_package():
    packages = ["torch", "matplotlib", "sklearn", "tqdm", "flax", "equinox", "scipy.optimize"]
    before = run("-c", f"import jax, optax, sys; print([name for name in {packages} if name in sys.modules])")
    after = run("-c", f"import jax, optax, fnn, sys; print([name for name in {packages} if name in sys.modules])")
    assert after.returncode == 0, after.stderr
    assert after.stdout == before.stdout


def test_importing_fnn_starts_no_backend():
    code = """
import fnn
import jax
try:
    jax.devices()
except RuntimeError:
    print("imported without a backend")
"""
    result = run("-c", code, JAX_PLATFORMS="nonexistent")
    assert result.stdout == "imported without a backend\n", result.stderr


def test_importing_fnn_is_quick(tmp_path):
    code = """
import time
import jax, optax
start = time.process_time()
import fnn
print(time.process_time() - start)
"""
    # With the bytecode that an installed package has, which the first run writes: to compile the source takes 0.2 s.
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    # Processor time: other processes slow down the clock on the wall, but hardly this.
    _, *seconds = [float(run("-c", code, **bytecode).stdout) for _ in range(6)]
    assert statistics.median(seconds) <= 0.3, seconds
