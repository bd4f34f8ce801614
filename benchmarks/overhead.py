"""What is beside the speed of one call: dispatch, memory, and how the cost grows with the sizes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import facade
import jax
import jax.numpy as jnp
import numpy as np
from contenders import torch_threads
from harness import Call, child, peak_growth, status
from layers import Case, Integers, attention, conv, norm, recurrent
from models import VOCABULARY, gpt, resnet, small_layers

import fnn

LENGTHS = (2048, 4096, 8192)


def renamed(case: Case, name: str) -> Case:
    return dataclasses.replace(case, family="growth", name=name)


# What grows, and a case for each of its sizes.
GROWTH: dict[str, dict[int, Case]] = {
    "batch: conv 3x3 64-64 28²": {n: conv(n, 64, 64, (28, 28), 3, padding=1) for n in (1, 2, 4, 8, 16, 32)},
    "batch: depthwise 3x3 128 28²": {n: conv(n, 128, 128, (28, 28), 3, padding=1, groups=128) for n in (1, 4, 16)},
    "channels: conv 3x3 N4 28²": {c: conv(4, c, c, (28, 28), 3, padding=1) for c in (8, 16, 32, 64, 128, 256)},
    "rows: layer norm of 512": {n: norm("Layer", n, 512) for n in (16, 128, 1024, 8192)},
    "length: attention 1x8xTx64": {t: attention(1, 8, t, 64) for t in (128, 512, 2048)},
    "length: LSTM N16 128": {t: recurrent("LSTM", t, 16, 128) for t in (16, 64, 256)},
    "depth: GPT of width 128, 2x64 tokens": {
        d: Case("growth", "", (Integers((2, 64), VOCABULARY),), lambda nn, d=d: gpt(nn, 128, d, 64), None) for d in (1, 2, 4, 8)
    },
}


def eager_cases() -> dict[str, dict[str, Call]]:
    """Eager forward: networks so narrow that only dispatch counts, and one of full width."""
    torch = torch_threads()
    nets: dict[str, tuple[Any, tuple[int, ...]]] = {
        "80 layers of width 4": (small_layers, (2, 4)),
        "ResNet-18 of width 4, 32²": (lambda nn: resnet(nn, (2, 2, 2, 2), bottleneck=False, scale=16), (1, 3, 32, 32)),
        "ResNet-18, 1x3x112²": (lambda nn: resnet(nn, (2, 2, 2, 2), bottleneck=False), (1, 3, 112, 112)),
    }
    cases = {}
    for name, (build, shape) in nets.items():
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        ours, theirs, tensor, array = build(fnn.nn).eval(), build(torch.nn).eval(), torch.tensor(x), jnp.asarray(x)

        def eager(theirs: Any = theirs, tensor: Any = tensor) -> Any:
            with torch.no_grad():
                return theirs(tensor)

        cases[f"eager, {name}"] = {
            "fnn": lambda ours=ours, array=array: jax.block_until_ready(ours(array)),
            "torch": eager,
        }
    return cases


def jitted_cases() -> dict[str, dict[str, Call]]:
    """Those of facade.py; `stock` is hand-written JAX."""
    named = {"raw": "stock", "fnn, by argument": "fnn", "flax.nnx": "flax", "equinox": "equinox", "torch eager": "torch"}
    x = jnp.ones((2, 4))
    cases = {}
    for depth in (1, 80):
        for what, build in (("forward", facade.forward_case), ("step", facade.step_case)):
            calls = {named[name]: call for name, call in build(depth, x).items() if name in named}
            cases[f"jitted, {what}, {depth} layer{'s' * (depth > 1)} of width 4"] = {
                name: lambda call=call: jax.block_until_ready(call()) for name, call in calls.items()
            }
    return cases


def memory_cases(quick: bool) -> dict[str, tuple[Any, ...]]:
    """What a process of its own is asked for."""
    cases: dict[str, tuple[Any, ...]] = {}
    for length in LENGTHS[:1] if quick else LENGTHS:
        for causal in (0, 1):
            for contender in ("fnn", "stock"):
                if contender == "fnn" or (not causal and length < LENGTHS[-1]):
                    kind = "causal attention" if causal else "attention"
                    cases[f"{kind}, {length} tokens, 8 heads of 64 / {contender}"] = ("attention", contender, length, causal)
    for model in () if quick else ("ResNet-18", "GPT"):
        for contender in ("fnn", "stock", "torch", "flax", "equinox"):
            cases[f"training step, {model} / {contender}"] = ("model", contender, model, 1)
    return cases


def memory(*case: Any) -> float:
    """MiB that a case adds at its peak, in a process of its own."""
    return float(child(__file__, *case, timeout=600))


def measure_memory(kind: str, contender: str, what: str, flag: str) -> float:
    if kind == "model":
        import whole

        torch_threads()
        before = status("VmRSS")
        call = whole.caller(what, contender, training=True)
        call()
        Path("/proc/self/clear_refs").write_text(
            "5"
        )  # from here on: what the compiler took is not counted, as far as it is given back
        call()
        return status("VmHWM") - before
    from contenders import drawn, fnn_form, jax_call, stock_form

    case = attention(1, 8, int(what), 64, causal=flag == "1")
    inputs = drawn(case)
    form = fnn_form(case.layer(fnn.nn), True)
    form = form if contender == "fnn" else stock_form(case, form, True)
    function, arguments = jax_call(form, inputs, np.ones(case.inputs[0], np.float32), jnp.float32)
    return peak_growth(lambda: jax.block_until_ready(function(*arguments)))


if __name__ == "__main__":
    import sys

    print(measure_memory(*sys.argv[1:]))
