"""What the measures share: interleaved timing with its spread, processes of their own, memory, and a journal of results."""

from __future__ import annotations

import json
import math
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
BLOCK = 5e-3  # seconds: a call that takes less is timed several times at once
WARM = 2e-2  # seconds: a call that takes less is made once more, untimed, so that it finds the caches of its own
Call = Callable[[], Any]


class Interval(NamedTuple):
    """A median between the bounds of its 95 % confidence interval."""

    low: float
    median: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """By order statistics, which suppose nothing about the distribution. Of fewer than six values: all of them."""
    ordered, rank, beyond = sorted(values), 0, 0.0
    while True:  # the interval from the value of a rank to its mirror image misses the median if all beyond lie on one side
        beyond += math.comb(len(ordered), rank) / 2 ** len(ordered)
        if 2 * beyond > 0.05 or 2 * rank + 2 > len(ordered):
            break
        rank += 1
    rank = max(rank, 1)
    return Interval(ordered[rank - 1], statistics.median(ordered), ordered[-rank])


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


def timed(call: Call, count: int = 1) -> float:
    """Seconds of one of so many calls; the call waits for its result."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def interleaved(
    calls: dict[str, Call], share: float, rounds: int = 30, least: int = 6, patient: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Seconds of a call in each round, in which all contenders take their turn in random order.

    Args:
        calls: each waits for its result. What is compiled at a first call is compiled already, or is now.
        share: seconds that each may take.
        rounds: at most.
        least: rounds that even the slowest takes part in. A contender whose share is used up sits out those that are left.
        patient: those that may take four times the share.
    """
    blocks, warmed, allowed = {}, {}, {}
    for name, call in calls.items():
        call()
        once = timed(call)
        once = min(once, timed(call)) if once < 0.5 else once
        blocks[name] = max(1, min(200, int(BLOCK / max(once, 1e-7))))
        warmed[name] = once < WARM
        turn = once * (blocks[name] + warmed[name])
        enough = least if once < 1.0 else min(least, 3)
        allowed[name] = min(rounds, max(enough, int(share * (4 if name in patient else 1) / turn)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(max(allowed.values())):
        order = [name for name in calls if index < allowed[name]]
        for name in random.sample(order, len(order)):
            time.sleep(2e-3)  # OpenMP's threads spin for a while behind a call
            if warmed[name]:
                calls[name]()
            times[name].append(timed(calls[name], blocks[name]))
    return times


def ratios(times: dict[str, list[float]], name: str = "fnn") -> dict[str, Interval]:
    """The time of that contender over the time of each other one, from the pairs of the same round."""
    return {
        other: interval([mine / theirs for mine, theirs in zip(times[name], values, strict=False)])
        for other, values in times.items()
        if other != name
    }


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in times.items()}


class Load:
    """The share of the processors' time that other processes took since it was made."""

    def __init__(self) -> None:
        self.start = self._now()

    def _now(self) -> tuple[float, float, float]:
        fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        busy = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy, sum(os.times()[:4])

    def others(self) -> float:
        wall, busy, own = (now - then for now, then in zip(self._now(), self.start, strict=True))
        return max(0.0, busy - own) / wall / (os.cpu_count() or 1)


def status(field: str) -> float:
    """MiB that /proc/self/status tells, such as VmHWM: Linux's ru_maxrss would be that of the parent, if it is larger."""
    return int(re.findall(rf"{field}:\s*(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


def peak_growth(call: Call) -> float:
    """MiB that a call adds to the peak memory of this process."""
    before = status("VmHWM")
    call()
    return status("VmHWM") - before


def child(script: str, *arguments: Any, timeout: float | None = None) -> str:
    """What a script prints that runs in a process of its own."""
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout).stdout


def versions(*modules: str) -> str:
    """Of Python and the modules, and the machine."""
    import importlib.metadata

    named = {"jax": "JAX", "torch": "PyTorch", "flax": "Flax", "equinox": "Equinox"}
    parts = [f"Python {platform.python_version()}"]
    parts += [f"{named[module]} {importlib.metadata.version(module)}" for module in modules]
    return f"{', '.join(parts)}, {platform.machine()} CPU, {len(os.sched_getaffinity(0))} cores"


class Journal:
    """Results on disk, a line each as soon as it is there, so that an interrupted run can go on."""

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        lines = path.read_text().splitlines(keepends=True) if resume and path.exists() else []
        # The last line of a run that was killed may be half a line; what failed is tried again.
        self.records = [record for line in lines if line.endswith("\n") and "error" not in (record := json.loads(line))]
        path.write_text("".join(json.dumps(record) + "\n" for record in self.records))

    def has(self, *key: str) -> bool:
        return any(record["key"] == list(key) for record in self.records)

    def add(self, *key: str, **values: Any) -> dict[str, Any]:
        record = {"key": list(key), **values}
        self.records.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        return record
