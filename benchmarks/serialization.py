"""Checkpoint files: fnn.load and fnn.save against torch and safetensors; and peak memory.

    python benchmarks/serialization.py [--quick] [--large FOLDER]

Each measurement is a process of its own, which does the same with a small file first: a checkpoint is read once, into memory
that is new. Files lie in the page cache. Processes are in random order; times are those of the fastest, and ratios of them,
since what new memory costs differs from process to process by more than what is compared. Writes the table to
benchmarks/serialization.md; with --large its second table, of the time and memory that files of 4.5 GiB take, which are written
to the folder.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import child, status, versions

TABLES = Path(__file__).with_suffix(".md")
LARGE_TITLE = "Files of 4.5 GiB, 72 tensors, in a process each: what reading or writing adds to its memory."
CASES = {  # how many tensors of which shape
    "8 tensors of 48 MiB": (8, (12, 1024, 1024)),
    "96 tensors of 4 MiB": (96, (1024, 1024)),
    "4,000 tensors of 4 KiB": (4000, (32, 32)),
}
GROUPS = {  # what is compared: the first is the base of the ratios
    "read .pt into JAX": ["torch.load(mmap=True), jnp.asarray", "fnn.load(device=)", "fnn.load(device=, verify=False)"],
    "read .pt into a model": [
        "torch.load(mmap=True), load_state_dict",
        "fnn.load, load_state_dict",
        "fnn.load(device=), load_state_dict",
    ],
    "read .pt of the older format into JAX": ["torch.load, jnp.asarray", "fnn.load(device=), older"],
    "read .safetensors into NumPy": ["safetensors.numpy.load_file", "fnn.load, safetensors"],
    "the same, and look at all of it": ["safetensors.numpy.load_file, max", "fnn.load, safetensors, max"],
    "read .safetensors into JAX": ["safetensors.numpy.load_file, jnp.asarray", "fnn.load(device=), safetensors"],
    "write .pt": ["torch.save", "fnn.save"],
    "write .safetensors": ["safetensors.numpy.save_file", "fnn.save, safetensors"],
}

LARGE = [
    "fnn.load",
    "fnn.load(device=)",
    "fnn.load(device=), older",
    "fnn.load, safetensors, max",
    "fnn.load(device=), safetensors",
    "torch.load(mmap=True)",
    "torch.load(mmap=True), jnp.asarray",
    "fnn.save",
    "torch.save",
]


def drawn(count: int, shape: list[int]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {f"{i}.weight": draw.standard_normal(shape, dtype=np.float32) for i in range(count)}


def write_files(folder: Path, count: int, shape: tuple[int, ...]) -> None:
    import safetensors.numpy
    import torch

    folder.mkdir()
    (folder / "case.json").write_text(json.dumps([count, shape]))
    state = drawn(count, list(shape))
    safetensors.numpy.save_file(state, folder / "a.safetensors")
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    torch.save(tensors, folder / "a.pt")
    torch.save(tensors, folder / "old.pt", _use_new_zipfile_serialization=False)


def prepared(name: str, folder: Path) -> Callable[[], Any]:
    """What is measured; all that is needed for it is imported and made."""
    what, *then = name.split(", ")
    module, _, rest = what.partition(".")
    function, _, option = rest.partition("(")
    import jax
    import jax.numpy as jnp

    import fnn

    count, shape = json.loads((folder / "case.json").read_text())
    options: dict[str, Any] = {"mmap": True} if "mmap" in option else {"device": "cpu"} if "device" in option else {}
    if "verify" in option:
        options["verify"] = False
    file = "a.safetensors" if "safetensors" in name else "old.pt" if "older" in then or what == "torch.load" else "a.pt"
    if rest.endswith(("save", "save_file")):
        state: Any = drawn(count, shape)
        target = folder / f"out{Path(file).suffix}"
        if module == "torch":
            import torch

            state = {key: torch.from_numpy(value) for key, value in state.items()}
        if module == "safetensors":
            save = importlib.import_module("safetensors.numpy").save_file
        else:
            save = importlib.import_module(module).save
        return lambda: save(state, target)
    load = (
        importlib.import_module("safetensors.numpy").load_file
        if module == "safetensors"
        else getattr(importlib.import_module(module), function)
    )
    if "load_state_dict" in then:
        net = fnn.nn.ParameterDict({str(i): fnn.nn.Parameter(fnn.nn.init.zeros, tuple(shape)) for i in range(count)})

        def into_model() -> Any:
            state = load(folder / file, **options)
            net.load_state_dict({key.removesuffix(".weight"): value for key, value in state.items()})
            return jax.block_until_ready([parameter.value for parameter in net.parameters()])

        return into_model
    if "jnp.asarray" in then:
        return lambda: jax.block_until_ready(
            {key: jnp.asarray(np.asarray(value)) for key, value in load(folder / file, **options).items()}
        )
    if "max" in then:
        return lambda: [value.reshape(-1).view(np.uint64).max() for value in load(folder / file, **options).values()]
    return lambda: load(folder / file, **options)


def measure(name: str, folder: Path) -> float:
    """Milliseconds; in the process of its own."""
    prepared(name, folder.parent / "small")()
    call = prepared(name, folder)
    np.ones(1 << 30, np.uint8)  # memory that a virtual machine has to ask for costs more, at random
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    del result
    return seconds * 1e3


def memory(name: str, folder: Path) -> str:
    """Seconds, and MiB that reading adds: at its peak, and of it without the pages of the file, which the system may take."""
    prepared(name, folder.parent / "small")()
    call = prepared(name, folder)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS"), status("RssAnon")
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    peak, anonymous = status("VmHWM") - before[0], status("RssAnon") - before[1]
    del result
    return f"| {name} | {seconds:.1f} | {peak:.0f} | {anonymous:.0f} |"


def large(folder: Path) -> None:
    """Time and memory of files of 4.5 GiB."""
    write_files(folder / "large", 72, (16, 1024, 1024))
    write_files(folder / "small", 2, (4, 4))
    lines = [LARGE_TITLE, "", "| | s | peak, MiB | without the file's pages, MiB |", "| --- | --- | --- | --- |"]
    for name in LARGE:
        lines.append(child(__file__, "--memory", name, folder / "large").strip())
        print(lines[-1], flush=True)
    TABLES.write_text(TABLES.read_text().partition(LARGE_TITLE)[0] + "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, and nothing is written")
    parser.add_argument("--large", type=Path, help="a folder for files of 4.5 GiB, whose reading is measured instead")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(measure(options.measure[0], Path(options.measure[1])))
        return
    if options.memory:
        print(memory(options.memory[0], Path(options.memory[1])))
        return
    if options.large:
        large(options.large)
        return
    repeat = 3 if options.quick else 5
    lines = [
        f"{versions('jax')}, float32, files in the page cache. The fastest of {repeat} processes each, in random "
        "order. fnn compares the checksums of .pt unless it says verify=False, and waits for the disk when it writes; torch "
        "and safetensors do neither.",
        "",
        f"| | | {' | '.join(CASES)} |",
        f"| --- | --- | {' | '.join('---' for _ in CASES)} |",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder / "small", 2, (4, 4))
        for i, case in enumerate(CASES.values()):
            write_files(folder / str(i), *case)
        for what, names in GROUPS.items():
            jobs = [(name, i) for name in names for i in range(len(CASES))] * repeat
            times: dict[tuple[str, int], list[float]] = {}
            for name, i in random.sample(jobs, len(jobs)):
                times.setdefault((name, i), []).append(float(child(__file__, "--measure", name, folder / str(i))))
            best = {key: min(values) for key, values in times.items()}
            for name in names:
                cells = [best[name, i] for i in range(len(CASES))]
                shown = [
                    f"{value:.0f} ms" if name == names[0] else f"{value / best[names[0], i]:.2f}"
                    for i, value in enumerate(cells)
                ]
                lines.append(f"| {what} | {name} | {' | '.join(shown)} |")
                print(lines[-1], flush=True)
                what = ""
    if not options.quick:
        _, title, rest = TABLES.read_text().partition(LARGE_TITLE)
        TABLES.write_text("\n".join([*lines, "", ""]) + title + rest)


if __name__ == "__main__":
    main()
