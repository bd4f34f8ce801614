"""What the stateful facade costs: fnn against hand-written JAX that does the same, in one process.

    python benchmarks/facade.py [--quick]

Networks of Linear(4, 4) with tanh between them, 2 rows, Adam: so small that only dispatch counts. Repetitions are
in random order; times are medians in microseconds, ratios are medians of pairs. Peers that are not installed are left out.
Writes the table to benchmarks/facade.md and the numbers to benchmarks/facade.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from harness import HERE, interleaved, timed, versions

import fnn
import fnn.nn as nn

Case = dict[str, Callable[[], Any]]


def waiting(call: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(call())


def compare(case: Case, repeat: int) -> dict[str, dict[str, float]]:
    """Medians in microseconds, and medians of the ratio to `raw` in the same repetition.

    Each peer is measured apart, beside raw JAX alone, since a call is slower behind one that has emptied the caches.
    """
    ours = {name: call for name, call in case.items() if name == "raw" or name.startswith("fnn")}
    result = _compare(ours, repeat)
    for name, call in case.items():
        if name not in ours:
            result[name] = _compare({"raw": case["raw"], name: call}, repeat)[name]
    return result


def _compare(case: Case, repeat: int) -> dict[str, dict[str, float]]:
    times = interleaved({name: waiting(call) for name, call in case.items()}, share=60, rounds=repeat)
    raw = times["raw"]
    return {
        name: {
            "median": statistics.median(values) * 1e6,
            "ratio": statistics.median(v / r for v, r in zip(values, raw, strict=True)),
            "more": statistics.median(v - r for v, r in zip(values, raw, strict=True)) * 1e6,
        }
        for name, values in times.items()
    }


class Net(nn.Module):
    def __init__(self, depth: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


def raw_forward(params: Any, x: Any) -> Any:
    for i in range(len(params)):
        layer = params[f"layer{i}"]
        x = jnp.tanh(x @ layer["weight"].T + layer["bias"])
    return x


def raw_parameters(depth: int) -> Any:
    keys = jax.random.split(jax.random.key(0), depth)
    return {
        f"layer{i}": {"weight": jax.random.uniform(k, (4, 4), minval=-0.5, maxval=0.5), "bias": jnp.zeros(4)}
        for i, k in enumerate(keys)
    }


def forward_case(depth: int, x: Any) -> Case:
    net, params = Net(depth), raw_parameters(depth)
    raw, ours = jax.jit(raw_forward), fnn.jit(lambda net, x: net(x))
    closed = fnn.jit(lambda x: net(x))
    case: Case = {"raw": lambda: raw(params, x), "fnn, by argument": lambda: ours(net, x), "fnn, by closure": lambda: closed(x)}
    for name, peer in (("flax.nnx", nnx_model), ("equinox", equinox_model), ("torch eager", torch_model)):
        with contextlib.suppress(ImportError):
            case[name] = peer(depth)[0]
    return case


def step_case(depth: int, x: Any) -> Case:
    transformation = optax.adam(1e-3)
    box = [raw_parameters(depth)]
    box.append(transformation.init(box[0]))

    @jax.jit
    def raw(params: Any, state: Any, x: Any) -> Any:
        loss, grads = jax.value_and_grad(lambda p: (raw_forward(p, x) ** 2).mean())(params)
        updates, state = transformation.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def raw_step() -> Any:
        box[0], box[1], loss = raw(box[0], box[1], x)
        return loss

    net = Net(depth)
    optimizer = fnn.optim.Optimizer(net, transformation)

    @fnn.jit
    def by_argument(net: Any, optimizer: Any, x: Any) -> Any:
        loss, grads = fnn.value_and_grad(lambda net: (net(x) ** 2).mean())(net)
        optimizer.step(grads)
        return loss

    @fnn.jit
    def by_closure(x: Any) -> Any:
        loss, grads = fnn.value_and_grad(lambda net: (net(x) ** 2).mean())(net)
        optimizer.step(grads)
        return loss

    case: Case = {
        "raw": raw_step,
        "fnn, by argument": lambda: by_argument(net, optimizer, x),
        "fnn, by closure": lambda: by_closure(x),
    }
    for name, peer in (("flax.nnx", nnx_model), ("torch eager", torch_model)):
        with contextlib.suppress(ImportError):
            case[name] = peer(depth)[1]
    return case


def nnx_model(depth: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs: Any):
            self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(depth)])

        def __call__(self, x: Any) -> Any:
            for layer in self.layers:
                x = jnp.tanh(layer(x))
            return x

    model, x = Model(nnx.Rngs(0)), jnp.ones((2, 4))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    forward = nnx.jit(lambda model, x: model(x))

    @nnx.jit
    def step(model: Any, optimizer: Any, x: Any) -> Any:
        loss, grads = nnx.value_and_grad(lambda model: (model(x) ** 2).mean())(model)
        optimizer.update(model, grads)
        return loss

    return lambda: forward(model, x), lambda: step(model, optimizer, x)


def equinox_model(depth: int) -> tuple[Callable[[], Any], None]:
    import equinox as eqx

    layers = [eqx.nn.Linear(4, 4, key=key) for key in jax.random.split(jax.random.key(0), depth)]
    x = jnp.ones((2, 4))

    @eqx.filter_jit
    def forward(layers: Any, x: Any) -> Any:
        for layer in layers:
            x = jnp.tanh(jax.vmap(layer)(x))
        return x

    return lambda: forward(layers, x), None


def torch_model(depth: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import torch

    model = torch.nn.Sequential(*[m for _ in range(depth) for m in (torch.nn.Linear(4, 4), torch.nn.Tanh())])
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)
    x = torch.ones(2, 4)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return forward, step


def after_setattr(depth: int, x: Any, repeat: int) -> float:
    """What one call costs more a layer after an attribute of an unrelated module was set, in microseconds."""
    net, other = Net(depth), nn.Linear(1, 1)
    forward = fnn.jit(lambda net, x: net(x))
    more = []
    for i in range(repeat):
        plain = timed(waiting(lambda: forward(net, x)))
        other.note = i
        more.append(timed(waiting(lambda: forward(net, x))) - plain)
    return statistics.median(more) / depth * 1e6


def seven_billion() -> tuple[float, float, float]:
    """Seconds to build a model of 7 billion parameters and to eval_shape its init, and the number of parameters."""
    width = 4096
    start = time.perf_counter()
    net = nn.Sequential(
        *[
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(52)
        ]
    )
    built = time.perf_counter() - start
    start = time.perf_counter()
    jax.eval_shape(fnn.pure(net).init, jax.random.key(0))
    return built, time.perf_counter() - start, sum(p.numel() for p in net.parameters())


def import_time(repeat: int) -> float:
    """Seconds that importing fnn adds to importing jax and optax."""

    def seconds(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    return statistics.median(seconds("import jax, optax, fnn") - seconds("import jax, optax") for _ in range(repeat))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, and nothing is written")
    quick = parser.parse_args().quick
    repeat = 20 if quick else 200
    x = jnp.ones((2, 4))
    results: dict[str, Any] = {"versions": versions("jax"), "cases": {}}
    lines = [
        f"{results['versions']}. Medians of {repeat} interleaved runs.",
        "",
        "| case | | µs | ratio to raw JAX | µs more than raw JAX |",
        "| --- | --- | --- | --- | --- |",
    ]
    for depth in (1, 80):
        for name, build in (("forward", forward_case), ("training step", step_case)):
            title = f"{name}, {depth} layer{'s' if depth > 1 else ''}"
            results["cases"][title] = compared = compare(build(depth, x), repeat)
            for who, row in compared.items():
                lines.append(f"| {title} | {who} | {row['median']:.0f} | {row['ratio']:.2f} | {row['more']:.1f} |")
    built, shaped, size = seven_billion()
    others = {
        "µs a layer, once, after an unrelated setattr (80 layers)": after_setattr(80, x, repeat),
        f"seconds to build a model of {size / 1e9:.1f} billion parameters": built,
        "seconds of jax.eval_shape of its init": shaped,
        "seconds that importing fnn adds to importing jax and optax": import_time(3 if quick else 9),
    }
    results["others"] = others
    lines += ["", "| measure | |", "| --- | --- |", *[f"| {name} | {value:.2f} |" for name, value in others.items()]]
    table = "\n".join(lines) + "\n"
    print(table)
    if not quick:
        (HERE / "facade.md").write_text(table)
        (HERE / "facade.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
