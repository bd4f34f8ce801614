"""Attention on the CPU: fnn against PyTorch eager and jax.nn.dot_product_attention, in one process; and memory.

    python benchmarks/attention.py [--quick]

Random inputs and cotangents, all of them arguments. Repetitions are in random order; times are medians, ratios are of
medians. Peak memory is the growth of the high-water mark of a process a case. Writes the table to benchmarks/attention.md.
"""

from __future__ import annotations

import argparse
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn.functional as F

HERE = Path(__file__).parent
CASES = {  # the shape, whether causal, whether keys are padding
    "causal 4x12x512x64": ((4, 12, 512, 64), True, False),
    "4x12x512x64": ((4, 12, 512, 64), False, False),
    "1x8x2048x64": ((1, 8, 2048, 64), False, False),
    "2x8x1024x64, padding mask": ((2, 8, 1024, 64), False, True),
    "32x4x64x32": ((32, 4, 64, 32), False, False),
}
LENGTHS = (2048, 4096, 8192)


def ours(q: Any, k: Any, v: Any, mask: Any, causal: bool) -> Any:
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)


def stock(q: Any, k: Any, v: Any, mask: Any, causal: bool) -> Any:
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal).swapaxes(1, 2)


def jax_calls(attention: Callable[..., Any], operands: Any, mask: Any, causal: bool) -> tuple[Callable[[], Any], ...]:
    @jax.jit
    def forward(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return attention(q, k, v, mask, causal)

    @jax.jit
    def gradient(q: Any, k: Any, v: Any, cotangent: Any, mask: Any) -> Any:
        return jax.vjp(lambda *a: attention(*a, mask, causal), q, k, v)[1](cotangent)

    arrays = [jnp.asarray(x) for x in operands]
    mask = None if mask is None else jnp.asarray(mask)
    return (
        lambda: jax.block_until_ready(forward(*arrays[:3], mask)),
        lambda: jax.block_until_ready(gradient(*arrays, mask)),
    )


def torch_calls(operands: Any, mask: Any, causal: bool) -> tuple[Callable[[], Any], ...]:
    import torch

    *tensors, cotangent = [torch.tensor(x).requires_grad_() for x in operands]
    mask = None if mask is None else torch.tensor(mask)

    def attention() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(*tensors, mask, is_causal=causal)

    def forward() -> None:
        with torch.no_grad():
            attention()

    return forward, lambda: torch.autograd.grad(attention(), tensors, cotangent.detach())


def medians(calls: dict[str, Callable[[], Any]], repeat: int) -> dict[str, float]:
    """Milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for call in calls.values():
        call()
    for _ in range(repeat):
        random.shuffle(order)
        for name in order:
            start = time.perf_counter()
            calls[name]()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(shape: tuple[int, ...], causal: bool, padded: bool, repeat: int) -> list[dict[str, float]]:
    """Milliseconds forward, and forward with the gradient."""
    draw = np.random.default_rng(0)
    operands = [draw.standard_normal(shape, dtype=np.float32) for _ in range(4)]
    mask = None
    if padded:
        mask = (np.arange(shape[2]) < draw.integers(shape[2] // 2, shape[2], (shape[0], 1)))[:, None, None, :]
    calls = {
        "torch": torch_calls(operands, mask, causal),
        "fnn": jax_calls(ours, operands, mask, causal),
        "jax.nn": jax_calls(stock, operands, mask, causal),
    }
    return [medians({name: pair[i] for name, pair in calls.items()}, repeat) for i in (0, 1)]


def peak() -> float:
    """MiB; Linux's ru_maxrss would be that of the parent, which is larger."""
    return int(re.findall(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


def growth(name: str, length: int, causal: bool) -> float:
    """MiB that forward and gradient of 8 heads of 64 add to the peak memory of this process."""
    operands = [np.random.default_rng(0).standard_normal((1, 8, length, 64), dtype=np.float32) for _ in range(4)]
    _, run = jax_calls({"fnn": ours, "jax.nn": stock}[name], operands, None, causal)
    before = peak()
    run()
    return peak() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, and nothing is written")
    parser.add_argument("--growth", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.growth:
        name, length, causal = options.growth
        print(growth(name, int(length), causal == "causal"))
        return
    repeat = 5 if options.quick else 15
    lines = [
        f"Python {platform.python_version()}, JAX {jax.__version__}, {platform.machine()} CPU, float32. Medians of {repeat} "
        "interleaved runs: forward / forward and gradient.",
        "",
        "| case | PyTorch, ms | fnn, ratio | jax.nn.dot_product_attention, ratio |",
        "| --- | --- | --- | --- |",
    ]
    for title, case in CASES.items():
        rows = compare(*case, repeat)
        base = " / ".join(f"{row['torch']:.1f}" for row in rows)
        ratios = (" / ".join(f"{row[name] / row['torch']:.2f}" for row in rows) for name in ("fnn", "jax.nn"))
        lines.append(f"| {title} | {base} | {' | '.join(ratios)} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        "Peak memory that forward and gradient add, MiB; 8 heads of 64:",
        "",
        "| tokens | one array | fnn | fnn, causal | jax.nn.dot_product_attention |",
        "| --- | --- | --- | --- | --- |",
    ]
    for length in LENGTHS:
        cells = []
        for name, causal in (("fnn", "all"), ("fnn", "causal"), ("jax.nn", "all")):
            if name == "jax.nn" and length > LENGTHS[1]:
                cells.append("not run")
                continue
            command = [sys.executable, __file__, "--growth", name, str(length), causal]
            cells.append(f"{float(subprocess.run(command, check=True, capture_output=True, text=True).stdout):.0f}")
        lines.append(f"| {length} | {8 * length * 64 * 4 / 2**20:.0f} | {' | '.join(cells)} |")
    table = "\n".join(lines) + "\n"
    print(table)
    if not options.quick:
        (HERE / "attention.md").write_text(table)


if __name__ == "__main__":
    main()
