"""Deep stacks of like layers: as one scan (`fnn.scan_layers`) and in a loop, in one process.

    python benchmarks/scan.py [--quick]

nn.TransformerEncoder of width 256, 4 heads, feed-forward 1,024, without dropout, 8 sequences of 128, with the normalization
behind each block or before it: value and gradient under fnn.jit. Step times are medians of interleaved runs; memory is what
XLA says that the compiled function needs beside its arguments and results. A loop of 48 layers can take minutes to compile;
--quick leaves loops of more than 12 out. Writes the table to benchmarks/scan.md and the numbers to benchmarks/scan.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from harness import HERE, timed, versions

import fnn
import fnn.nn as nn

WIDTH, BATCH, TOKENS = 256, 8, 128
DEPTHS = (4, 8, 12, 24, 48)
LIMIT = 60  # seconds of steps, where seven take longer


def form(depth: int, scan: bool, norm_first: bool, x: Any, cotangent: Any) -> tuple[dict[str, Any], Callable[[], Any]]:
    """How long a form of an encoder takes to trace and to compile, its memory, and a call of it."""
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
    encoder.scan_layers = scan

    @fnn.jit
    def step(encoder: Any, x: Any, cotangent: Any) -> Any:
        return fnn.value_and_grad(lambda encoder, x: (encoder(x) * cotangent).mean(), argnums=(0, 1))(encoder, x)

    for parameter in encoder.parameters():
        jax.block_until_ready(parameter.value)  # drawn before the clock starts
    start = time.perf_counter()
    lowered = step.lower(encoder, x, cotangent)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return {"trace": middle - start, "compile": end - middle, "memory": memory}, lambda: jax.block_until_ready(
        step(encoder, x, cotangent)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="no loops of more than 12 layers")
    quick = parser.parse_args().quick
    random = np.random.default_rng(0)
    x, cotangent = (random.normal(size=(BATCH, TOKENS, WIDTH)).astype(np.float32) for _ in range(2))
    jax.block_until_ready(jax.jit(lambda x: x @ x.swapaxes(1, 2))(x))  # the backend starts before the clock does
    for norm_first in (False, True):
        form(2, False, norm_first, x, cotangent)  # and what is traced once a process is traced

    rows: list[dict[str, Any]] = []
    for norm_first, depth in itertools.product((False, True), DEPTHS):
        forms = (True,) if quick and depth > 12 else (True, False)
        made = {scan: form(depth, scan, norm_first, x, cotangent) for scan in forms}
        for _, call in made.values():
            timed(call)
        times: dict[bool, list[float]] = {scan: [] for scan in forms}
        while len(times[True]) < 7 and sum(map(sum, times.values())) < LIMIT:
            for scan in forms:
                times[scan].append(timed(made[scan][1]))
        for scan in forms:
            row = {"norm_first": norm_first, "layers": depth, "scan": scan}
            rows.append({**row, "step": statistics.median(times[scan]), **made[scan][0]})
            print(rows[-1], flush=True)

    about = versions("jax")
    (HERE / "scan.json").write_text(json.dumps({"versions": about, "rows": rows}, indent=1) + "\n")
    lines = [
        f"{about}. `python benchmarks/scan.py{' --quick' if quick else ''}`",
        "",
        "| normalization | layers | form | tracing (s) | compiling (s) | step (ms) | further memory (MiB) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        figures = f"{row['trace']:.2f} | {row['compile']:.1f} | {row['step'] * 1e3:.0f} | {row['memory']:.0f}"
        norm = "before" if row["norm_first"] else "behind"
        lines.append(f"| {norm} | {row['layers']} | {'scan' if row['scan'] else 'loop'} | {figures} |")
    (HERE / "scan.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
