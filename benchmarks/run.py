"""fnn beside PyTorch, torch.compile, JAX's own operations, Flax NNX and Equinox, in one process.

    python benchmarks/run.py [--quick] [--only PATTERN] [--dtype float32 bfloat16] [--resume] [--hours H]

Every case has the same inputs and random cotangents for all contenders, all of them arguments, and each contender the layout
of its users. Repetitions are interleaved in random order; figures are medians, ratios those of the pairs of a round, with the
95 % interval of their median. Nothing is pinned: JAX and PyTorch have a thread for each processor. Outputs and gradients of
fnn, PyTorch and the stock operation are compared before they are timed.

A result is kept in results.jsonl as soon as it is there; --resume goes on with it. At the end results.json, results.md and
results.svg are written, beside this file, or with --quick or --only to --out. --hours is what all of it may take: cases get
their share of the time that is left, and torch.compile is left out when that is short.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contenders
import jax
import overhead
import report
import whole
from cases import CASES, QUICK
from harness import HERE, Journal, Load, interleaved, medians, ratios, versions
from layers import Case
from models import MODELS

Job = tuple[tuple[str, ...], float, Callable[[float, tuple[str, ...]], dict[str, Any]]]  # key, weight, given share and peers
SHORT = 4.0  # seconds for a layer case: with less, torch.compile is left out


def timing(made: contenders.Contenders, share: float, rounds: int) -> dict[str, Any]:
    load = Load()
    times = interleaved(made.calls, share, rounds, patient=("fnn", "stock"))
    against = ratios(times)
    for name in made.same:
        against[name] = against["stock"]
    return {
        "seconds": medians(times),
        "ratios": against,
        "pairs": {name: min(len(values), len(times["fnn"])) for name, values in times.items()},
        "failures": made.failures,
        "same": made.same,
        "stock_program": made.stock_program,
        "load": load.others(),
    }


def layer_job(section: str, case: Case, dtype: str, gradient: bool, rounds: int, only: tuple[str, ...] = ()) -> Job:
    def measure(share: float, peers: tuple[str, ...]) -> dict[str, Any]:
        made = contenders.of_case(case, dtype, gradient, tuple(peer for peer in peers if not only or peer in only))
        return timing(made, share, rounds)

    key = (section, case.family, case.name, dtype, "gradient" if gradient else "forward")
    return key, 1.0, measure


def model_job(name: str, training: bool, rounds: int) -> Job:
    def measure(share: float, peers: tuple[str, ...]) -> dict[str, Any]:
        return timing(whole.of_model(name, training, peers), share, rounds)

    return ("model", "model", name, "float32", "gradient" if training else "forward"), 8.0, measure


def compile_job(name: str, repeat: int) -> Job:
    def measure(share: float, peers: tuple[str, ...]) -> dict[str, Any]:
        forms = random.sample([False, True] * repeat, 2 * repeat)
        taken = [(plain, *whole.compile_seconds(name, plain)) for plain in forms]
        best = {plain: min(seconds for form, seconds, _ in taken if form == plain) for plain in (False, True)}
        lines = {plain: next(lines for form, _, lines in taken if form == plain) for plain in (False, True)}
        return {
            "seconds": {"fnn": best[False], "stock": best[True]},
            "ratio": best[False] / best[True],
            "lines": {"fnn": lines[False], "stock": lines[True]},
        }

    return ("compile", "compile", name, "float32", "gradient"), 2.0 * repeat, measure


def dispatch_job(name: str, cases: Callable[[], Any], rounds: int) -> Job:
    def measure(share: float, peers: tuple[str, ...]) -> dict[str, Any]:
        of_all = {}
        for case, calls in cases().items():
            times = interleaved(calls, share, rounds, patient=("fnn", "torch"))
            of_all[case] = {"seconds": medians(times), "ratios": ratios(times)}
        return {"cases": of_all}

    return ("dispatch", "dispatch", name, "float32", "forward"), 2.0, measure


def memory_job(name: str, case: tuple[Any, ...]) -> Job:
    return (
        ("memory", "memory", name, "float32", "gradient"),
        1.0,
        lambda share, peers: {"mebibytes": overhead.memory(*case)},
    )


def jobs(quick: bool, dtypes: list[str], rounds: int) -> list[Job]:
    listed: list[Job] = []
    chosen = [case for case in CASES if not quick or f"{case.family} / {case.name}" in QUICK]
    for dtype in dtypes:
        for case in chosen:
            if dtype == "float32" or (case.half and not quick):
                listed += [layer_job("layer", case, dtype, gradient, rounds) for gradient in (False, True)]
    models = ["ResNet-18"] if quick else list(MODELS)
    if "float32" in dtypes:
        listed += [model_job(name, training, rounds) for name in models for training in (False, True) if training or not quick]
        listed += [compile_job(name, 1 if quick else 2) for name in models]
        listed.append(dispatch_job("eager", overhead.eager_cases, rounds))
        listed.append(dispatch_job("jitted", overhead.jitted_cases, rounds))
        for name, sizes in overhead.GROWTH.items():
            for size, case in list(sizes.items())[: 2 if quick else None]:
                if not quick or name.startswith("batch"):
                    named = overhead.renamed(case, f"{name} = {size}")
                    only = ("torch", "stock") if case.stock else ("torch",)
                    listed.append(layer_job("growth", named, "float32", True, rounds, only))
        listed += [memory_job(name, case) for name, case in overhead.memory_cases(quick).items()]
    return listed


def run(listed: list[Job], journal: Journal, hours: float, limit: float) -> None:
    """Each job has its part, by weight, of the time that is left; `limit` is the largest share of a contender, in seconds."""
    deadline = time.perf_counter() + hours * 3600
    left = [job for job in listed if not journal.has(*job[0])]
    for number, (key, weight, measure) in enumerate(left):
        part = max(0.0, deadline - time.perf_counter()) / sum(job[1] for job in left[number:]) * weight
        peers = tuple(peer for peer in contenders.PEERS if peer != "torch.compile" or part > SHORT * weight)
        share = min(limit * weight, max(0.03, part / 24))  # half of the part is for compiling; up to 12 shares are measured
        start = time.perf_counter()
        try:
            record = journal.add(*key, **measure(share, peers), took=time.perf_counter() - start)
        except Exception as error:
            record = journal.add(*key, error=f"{type(error).__name__}: {error}", took=time.perf_counter() - start)
        print(f"{number + 1}/{len(left)} {report.line(record)}", flush=True)
        if number % 8 == 7:
            jax.clear_caches()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a case of each family, in less than 10 minutes")
    parser.add_argument(
        "--only", metavar="PATTERN", help="jobs whose section/family/name/dtype/mode matches, such as '*depthwise*'"
    )
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--resume", action="store_true", help="go on with the run that was interrupted")
    parser.add_argument("--hours", type=float, help="what the run may take: 2.75, or 0.14 with --quick")
    parser.add_argument("--rounds", type=int, default=30, help="interleaved pairs, at most")
    parser.add_argument("--out", type=Path, help="a folder for the results: this one, or with --quick or --only out/benchmarks")
    parser.add_argument("--list", action="store_true", help="the jobs, and nothing is run")
    parser.add_argument("--report", action="store_true", help="draw up the report again from results.jsonl or results.json")
    options = parser.parse_args(arguments)
    listed = [
        job
        for job in jobs(options.quick, options.dtype, options.rounds)
        if options.only is None or fnmatch.fnmatch("/".join(job[0]), options.only)
    ]
    if options.list:
        print("\n".join("/".join(key) for key, _, _ in listed))
        return
    partly = options.quick or options.only is not None
    out = options.out or (HERE.parent / "out" / "benchmarks" if partly else HERE)
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "results.jsonl"
    if options.report:
        stored = json.loads((out / "results.json").read_text())
        report.write(stored["records"], stored["about"], out)
        return
    journal = Journal(kept, options.resume)
    about = {
        "versions": versions("jax", "torch", "flax", "equinox"),
        "command": " ".join(["python benchmarks/run.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "quick": options.quick,
    }
    start = time.perf_counter()
    run(listed, journal, options.hours or (0.14 if options.quick else 2.75), limit=0.3 if options.quick else 2.0)
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes")
    (out / "results.json").write_text(json.dumps({"about": about, "records": journal.records}, indent=1) + "\n")
    report.write(journal.records, about, out)
    kept.unlink()


if __name__ == "__main__":
    main()
