"""Runs PyTorch's own test databases through fnn: `cd tests && python -m conformance`.

The run is sharded by entry over worker processes and resumable: finished cases are kept in a folder of results, and a
second run does the rest. A case that takes too long is recorded and passed over. The report is a table a family.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BATCH = 12  # entries a worker process, since starting one takes seconds
INTRODUCTION = {
    "samples": "PyTorch's own test databases, `op_db` with its reference inputs, `module_db` and `common_nn`, and cases of "
    "our own where they have none, in float32: "
    "every sample through torch and through fnn (structure, shape, dtype, values, gradients for a random cotangent, "
    "state_dict keys, buffers after the call; eagerly and under jit); every error input must be refused before anything "
    "compiles or is written. Values agree to 1e-5, absolute and relative to the largest; a gradient that does not must be as "
    "close to torch's float64 as torch's own float32 is. Random functions are compared by shape, mean and rate.",
    "transformations": "A sample of each entry of PyTorch's test databases under JAX's transformations: forward and "
    "reverse mode agree, so do the two ways to a Hessian-vector product, in float64; vmap, and vmap of the gradient, give "
    "what a loop gives; forward and gradient export for cpu, cuda and tpu.",
    "dtypes": "A sample of each entry of PyTorch's test databases: in float64; in bfloat16, where the error against "
    "float64 may be torch's own and half a unit in the last place more; and with a NaN and an infinity among the operands.",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("names", nargs="*", help="entries, as nn.functional.pad.constant or Conv2d, or single cases: Conv2d#3")
    parser.add_argument("--family", action="append", default=[], help="only entries of these files, as functional/pooling")
    parser.add_argument(
        "--measure", choices=INTRODUCTION, default="samples", help="every sample, or one an entry in other ways"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="how many processes")
    parser.add_argument("--limit", type=float, default=120, help="seconds a case")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="the folder of results")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results of these entries")
    parser.add_argument("--report", type=Path, help="write the table to this file")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder = options.results / options.measure
    if options.worker:
        for entry in options.worker:
            work(entry, options)
        return 0
    single = [name for name in options.names if "#" in name or "!" in name]
    if single:
        return sum(run_one(name, options.measure) for name in single)
    return run(options)


def checks() -> dict[str, Callable[[Any], str]]:
    """What each measure does with a case."""
    from conformance.check import check, check_dtypes, check_transformations

    return {"samples": check, "transformations": check_transformations, "dtypes": check_dtypes}


def run_one(name: str, measure: str) -> int:
    """Runs one case and shows what happens."""
    from conformance.cases import cases

    entry = name.replace("!", "#").split("#")[0]
    (case,) = [case for case in cases(entry) if case.name == name]
    print(name, case.call.constructor or "", case.call.args, case.call.kwargs, sep="\n  ")
    try:
        print(checks()[measure](case))
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def work(entry: str, options: argparse.Namespace) -> None:
    """Runs the cases of an entry that have no result yet, and writes a line before and after each."""
    import jax
    from conformance.cases import cases, middle
    from conformance.check import Mismatch

    jax.config.update("jax_platforms", "cpu")
    check = checks()[options.measure]
    path = options.folder / f"{entry}.jsonl"
    done = {line["case"] for line in lines(path)}
    with path.open("a") as out:
        for case in cases(entry) if options.measure == "samples" else middle(entry):
            if case.name in done:
                continue
            note(out, case.name, "running", "")
            try:
                outcome, detail = check(case), ""
            except Mismatch as error:
                outcome, detail = "failed", str(error)
            except Exception as error:
                outcome, detail = "failed", f"{type(error).__name__}: {error}"
            note(out, case.name, outcome, detail)
        note(out, "", "complete", "")


def note(out: Any, case: str, outcome: str, detail: str) -> None:
    out.write(json.dumps({"case": case, "outcome": outcome, "detail": detail.split("\n")[0][:500], "time": time.time()}) + "\n")
    out.flush()


def lines(path: Path) -> list[dict[str, Any]]:
    """What is written of an entry; a line that was cut off does not count."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def run(options: argparse.Namespace) -> int:
    """Runs entries in worker processes, and reports."""
    from conformance.cases import entries, family

    unknown = [name for name in options.names if name not in entries()]
    if unknown:
        sys.exit(f"no such entry: {', '.join(unknown)}")
    chosen = [
        entry
        for entry in entries()
        if (not options.names or entry in options.names) and (not options.family or family(entry) in options.family)
    ]
    options.folder.mkdir(parents=True, exist_ok=True)
    for entry in chosen if options.fresh else ():
        (options.folder / f"{entry}.jsonl").unlink(missing_ok=True)
    waiting = [entry for entry in chosen if "complete" not in outcomes(options.folder, entry).values()]
    running: dict[subprocess.Popen[bytes], list[str]] = {}
    while waiting or running:
        while waiting and len(running) < options.workers:
            batch, waiting = waiting[:BATCH], waiting[BATCH:]
            running[start(batch, options)] = batch
        time.sleep(0.2)
        for process, batch in list(running.items()):
            busy = [(entry, line) for entry in batch if (line := last(options.folder, entry))["outcome"] == "running"]
            overdue = any(time.time() - line["time"] > options.limit for _, line in busy)
            if process.poll() is None and not overdue:
                continue
            if overdue:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            elif process.returncode and not busy:
                sys.exit(f"a worker ended with {process.returncode} before it began one of {', '.join(batch)}")
            for entry, line in busy:
                why = f"took more than {options.limit:g} s" if overdue else f"the process ended with {process.returncode}"
                record(options.folder, entry, line["case"], why)
            del running[process]
            for entry in batch:
                if last(options.folder, entry)["outcome"] != "complete":
                    waiting.insert(0, entry)
                else:
                    print(f"{entry}: {summary(outcomes(options.folder, entry))}", flush=True)
    text = report(chosen, options)
    if options.report:
        options.report.write_text(text, encoding="utf-8")
    print(text)
    return int("failed" in {outcome for entry in chosen for outcome in outcomes(options.folder, entry).values()})


def start(entries: list[str], options: argparse.Namespace) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "conformance", "--worker", *entries, "--measure", options.measure]
    return subprocess.Popen([*command, "--results", str(options.results.resolve())], cwd=HERE.parent, start_new_session=True)


def last(folder: Path, entry: str) -> dict[str, Any]:
    """The last line that is written of an entry."""
    return (lines(folder / f"{entry}.jsonl") or [{"case": "", "outcome": "", "time": time.time()}])[-1]


def record(folder: Path, entry: str, case: str, detail: str) -> None:
    with (folder / f"{entry}.jsonl").open("a") as out:
        note(out, case, "failed", detail)


def outcomes(folder: Path, entry: str) -> dict[str, str]:
    """The last outcome of each case."""
    return {line["case"]: line["outcome"] for line in lines(folder / f"{entry}.jsonl")}


def summary(found: dict[str, str]) -> str:
    counts = collections.Counter(outcome for name, outcome in found.items() if name)
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())


def report(chosen: list[str], options: argparse.Namespace) -> str:
    """The table a family, the totals, and what fails and why."""
    import jax
    import torch
    from conformance.cases import DIFFERENT, LEFT_OUT, family

    rows: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    failures, other_types, different = [], [], []
    for entry in chosen:
        last = {line["case"]: line for line in lines(options.folder / f"{entry}.jsonl") if line["case"]}
        for name, line in last.items():
            kind = "errors" if "!" in name else "samples"
            row = rows[family(entry)]
            row[kind] += 1
            row[f"{kind} failed"] += line["outcome"] == "failed"
            if line["outcome"] == "failed":
                failures.append(f"- `{name}`: {line['detail']}")
            elif line["outcome"] == "differs":
                different.append(f"- `{name}`: {DIFFERENT[name]}")
            elif line["outcome"].startswith("refused, "):
                other_types.append(f"- `{name}`: {line['outcome'].removeprefix('refused, ')}")
    heads = ("samples", "samples failed", "errors", "errors failed")[: 4 if options.measure == "samples" else 2]
    total = sum(rows.values(), collections.Counter())
    command = f"cd tests && python -m conformance --measure {options.measure}"
    text = [
        f"# Conformance with PyTorch: {options.measure}",
        "",
        INTRODUCTION[options.measure],
        "",
        f"torch {torch.__version__.split('+')[0]}, JAX {jax.__version__}; `{command}`.",
        "",
        "| family | " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * len(heads),
        *(f"| {name} | " + " | ".join(str(row[head]) for head in heads) + " |" for name, row in sorted(rows.items())),
        "| **all** | " + " | ".join(f"**{total[head]}**" for head in heads) + " |",
        "",
        "Left out:",
        "",
        *(f"- `{name}`: {reason}" for name, reason in LEFT_OUT.items()),
        "",
    ]
    for title, listed in (
        ("Failures", failures),
        ("Different from torch, with the reason", different),
        ("Refused with another type of exception than torch's", other_types),
    ):
        if listed:
            text += [f"## {title}", "", *listed, ""]
    return "\n".join(text)


if __name__ == "__main__":
    sys.exit(main())
