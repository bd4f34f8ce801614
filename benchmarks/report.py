"""Tables, targets and the picture, from the records of a run. Ratios are the time of fnn over the time of a peer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from harness import geometric_mean

PEERS = {"torch": "PyTorch", "torch.compile": "torch.compile", "stock": "stock JAX", "flax": "Flax NNX", "equinox": "Equinox"}
LEVEL = ("batch norm", "pooling", "embedding", "loss", "activation", "interpolation", "conv1x1", "GRU")  # with PyTorch
PAIRS = 30  # that the claim to be no slower than stock JAX rests on
HARD = ("depthwise", "grouped", "transposed")
METHOD = """\
All in one process, from the same inputs and random cotangents, none pinned and all with a thread for each processor. Figures
are times of fnn over times of a peer, lower is better: medians of the pairs of interleaved rounds, with their 95 % interval
(of fewer than six pairs, from the least to the largest). Layers: outputs, and gradients in parameters and inputs; forward in
evaluation mode. Models: forward in evaluation mode, and the training step with AdamW: images 8x3x112x112, GPT of 12 blocks
of width 384 with 4x128 tokens, LSTM of 2 layers of width 256 with 16x64 tokens. Stock JAX is the operation of jax.lax or
jax.nn in the layout of PyTorch; of models, fnn with `plain_kernels`. Flax has channels last. Where Flax or Equinox have
nothing of their own, and their users call jax.nn or optax, their figure is that of stock JAX."""
Record = dict[str, Any]


def of(records: Iterable[Record], section: str, mode: str | None = None, dtype: str | None = None) -> list[Record]:
    return [
        record
        for record in records
        if record["key"][0] == section
        and "error" not in record
        and mode in (None, record["key"][4])
        and dtype in (None, record["key"][3])
    ]


def name(record: Record) -> str:
    _, family, case, dtype, mode = record["key"]
    return f"{family}, {case}{f', {dtype}' if dtype != 'float32' else ''}, {mode}"


def against(records: Iterable[Record], peer: str) -> dict[str, float]:
    return {name(record): record["ratios"][peer][1] for record in records if peer in record["ratios"]}


def worst(figures: dict[str, float]) -> str:
    case = max(figures, key=lambda case: figures[case])
    return f"{figures[case]:.2f} ({case})"


def cell(ratio: Any) -> str:
    return "" if ratio is None else f"{ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f})"


def table(head: list[str], rows: Iterable[list[Any]]) -> list[str]:
    return ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows)] + [""]


def line(record: Record) -> str:
    """For the one who waits."""
    section, *_ = record["key"]
    title = f"{section}: {name(record)}"
    if "error" in record:
        return f"{title}: {record['error']}"
    if "ratios" in record:
        figures = [f"{PEERS[peer]} {cell(record['ratios'][peer])}" for peer in PEERS if peer in record["ratios"]]
        failed = [f"{PEERS[peer]} failed" for peer in record["failures"]]
        return (
            f"{title}: {record['seconds']['fnn'] * 1e3:.3f} ms; fnn / {'; '.join([*figures, *failed])} [{record['took']:.0f} s]"
        )
    if section == "dispatch":
        parts = [
            f"{case}: {', '.join(f'{peer} {r[1]:.2f}' for peer, r in of['ratios'].items())}"
            for case, of in record["cases"].items()
        ]
        return f"{title}: {'; '.join(parts)}"
    return f"{title}: {record.get('ratio', record.get('mebibytes')):.2f}"


def slower_than_stock(records: list[Record]) -> list[Record]:
    """Those whose ratio is 1.05 or more for sure."""
    measured = [record for record in of(records, "layer") if "stock" in record["ratios"]]
    return [record for record in measured if record["ratios"]["stock"][0] >= 1.05]


def targets(records: list[Record]) -> list[list[str]]:
    """What is asked, what is, and whether that is met."""
    rows: list[list[str]] = []

    def row(asked: str, figure: str, met: bool | None) -> None:
        rows.append([asked, figure, "not measured" if met is None else "yes" if met else "**no**"])

    def mean(asked: str, figures: Iterable[float], limit: float, inverse: bool = False) -> None:
        figure = geometric_mean(list(figures))
        figure = 1 / figure if inverse else figure
        known = not math.isnan(figure)
        row(asked, f"{figure:.2f}" if known else "", (figure >= limit if inverse else figure <= limit) if known else None)

    def each(asked: str, figures: dict[str, float], limit: float) -> None:
        above = sum(figure > limit for figure in figures.values())
        figure = f"{above} of {len(figures)} above; worst {worst(figures)}" if figures else ""
        row(asked, figure, not above if figures else None)

    layers = of(records, "layer", "gradient", "float32")
    slower = slower_than_stock(records)
    compared = [record for record in of(records, "layer") if "stock" in record["ratios"]]
    full = sum(record["pairs"]["stock"] >= PAIRS for record in compared)
    figure = f"{len(slower)} of {len(compared)} slower for sure; {full} of the {len(compared)} have {PAIRS} pairs"
    row("Never slower than stock JAX: lower 95 % bound below 1.05", figure, not slower if compared else None)
    for peer in ("flax", "equinox"):
        mean(f"Times faster than {PEERS[peer]}, layers with gradients: at least 3", against(layers, peer).values(), 3.0, True)
        hard = against([record for record in layers if record["key"][1] in HARD], peer)
        mean(f"The same, {', '.join(HARD)} convolution: at least 8", hard.values(), 8.0, True)
    eager = against(layers, "torch")
    mean("PyTorch eager, layers with gradients: geometric mean at most 1.0", eager.values(), 1.0)
    each("The same, no layer above 2.0", eager, 2.0)
    each("The same, none above 3.5 (the bar)", eager, 3.5)
    for family in LEVEL:
        members = [record for record in layers if record["key"][1] == family]
        if family == "conv1x1":  # on large maps
            members = [record for record in members if record["key"][2].endswith(("28²", "56²"))]
        each(f"The same, {family}: at most 1.0", against(members, "torch"), 1.0)
    steps = of(records, "model", "gradient")
    mean("PyTorch eager, training steps of whole models: geometric mean at most 1.2", against(steps, "torch").values(), 1.2)
    each("The same, none above 1.6", against(steps, "torch"), 1.6)
    each("Each training step faster than Flax NNX", against(steps, "flax"), 1.0)
    compiled = {record["key"][2]: record["ratio"] for record in of(records, "compile")}
    each("Compiling a training step, over the stock form's: at most 2.5", compiled, 2.5)
    memory = {record["key"][2]: record["mebibytes"] for record in of(records, "memory") if record["key"][2].endswith("/ fnn")}
    each(
        "Attention of 8,192 tokens with gradients, MiB: below 2,048", {k: v for k, v in memory.items() if " 8192 " in k}, 2048.0
    )
    dispatched = {k: v for record in of(records, "dispatch") for k, v in record["cases"].items() if k.startswith("eager")}
    each("Eager forward, over PyTorch eager: at most 2", {k: v["ratios"]["torch"][1] for k, v in dispatched.items()}, 2.0)
    return rows


def summary(records: list[Record], dtype: str) -> list[str]:
    """Geometric means by family: forward / forward and gradients."""
    found = [record for section in ("layer", "model") for record in of(records, section, dtype=dtype)]
    layers = [record for record in found if record["key"][0] == "layer"]
    groups = {family: [r for r in found if r["key"][1] == family] for family in dict.fromkeys(r["key"][1] for r in found)}
    groups = {"all layers": layers, **{("whole models" if f == "model" else f): members for f, members in groups.items()}}
    rows = []
    for title, members in groups.items():
        cells = []
        for peer in PEERS:
            means = [
                geometric_mean(list(against([r for r in members if r["key"][4] == mode], peer).values()))
                for mode in ("forward", "gradient")
            ]
            cells.append(
                " / ".join("" if math.isnan(mean) else f"{mean:.2f}" for mean in means)
                if not all(map(math.isnan, means))
                else ""
            )
        rows.append([title, len({record["key"][2] for record in members}), *cells])
    return table(["fnn over", "cases", *PEERS.values()], rows)


def cases(records: list[Record], section: str) -> list[str]:
    rows = []
    for record in of(records, section):
        seconds = record["seconds"].get("torch", math.nan)
        cells = [cell(record["ratios"].get(peer)) or "failed" * (peer in record["failures"]) for peer in PEERS]
        rows.append([name(record), f"{seconds * 1e3:.2f}", *cells])
    return table(["case", "PyTorch, ms", *PEERS.values()], rows)


def growth(records: list[Record]) -> list[str]:
    """The exponent of the cost between the smallest and the largest size."""
    series: dict[str, list[tuple[int, Record]]] = {}
    for record in of(records, "growth"):
        what, size = record["key"][2].split(" = ")
        series.setdefault(what, []).append((int(size), record))

    def exponent(points: list[tuple[int, Record]], contender: str) -> str:
        known = sorted((size, record["seconds"][contender]) for size, record in points if contender in record["seconds"])
        if len(known) < 2:
            return ""
        (small, less), *_, (large, more) = known
        return f"{math.log(more / less) / math.log(large / small):.2f}"

    rows = []
    for what, points in series.items():
        sizes = ", ".join(
            f"{size}: {record['seconds']['fnn'] * 1e3:.2f}" for size, record in sorted(points, key=lambda p: p[0])
        )
        rows.append([what, sizes, *(exponent(points, contender) for contender in ("fnn", "torch", "stock"))])
    return table(["with gradients", "fnn, ms", "exponent: fnn", "PyTorch", "stock JAX"], rows)


def others(records: list[Record]) -> list[str]:
    lines = []
    compiled = [
        [
            r["key"][2],
            f"{r['seconds']['fnn']:.1f}",
            f"{r['seconds']['stock']:.1f}",
            f"{r['ratio']:.2f}",
            f"{r['lines']['fnn'] / r['lines']['stock']:.2f}",
        ]
        for r in of(records, "compile")
    ]
    lines += ["## Compile time of training steps", ""]
    lines += table(["model", "fnn, s", "with plain_kernels, s", "ratio", "ratio of the lines of the program"], compiled)
    lines += ["## Dispatch", ""]
    dispatched = [
        [
            case,
            f"{of_case['seconds']['fnn'] * 1e6:.0f}",
            *(cell(of_case["ratios"].get(peer)) for peer in ("torch", "stock", "flax", "equinox")),
        ]
        for record in of(records, "dispatch")
        for case, of_case in record["cases"].items()
    ]
    lines += table(["case", "fnn, µs", "PyTorch", "hand-written JAX", "Flax NNX", "Equinox"], dispatched)
    lines += [
        "## Peak memory",
        "",
        "What a process of its own adds, MiB: for attention with what compiling takes, for models without.",
        "",
    ]
    kept: dict[str, dict[str, float]] = {}
    for record in of(records, "memory"):
        what, contender = record["key"][2].split(" / ")
        kept.setdefault(what, {})[contender] = record["mebibytes"]
    columns = ("fnn", "stock", "torch", "flax", "equinox")
    rows = [[what, *(f"{of_case[c]:.0f}" if c in of_case else "" for c in columns)] for what, of_case in kept.items()]
    lines += table(["", "fnn", *(PEERS[c] for c in columns[1:])], rows)
    return [*lines, "## Growth", "", *growth(records)]


def left_out(records: list[Record]) -> list[str]:
    lines = [f"- {name(record)}: {record['error']}" for record in records if "error" in record]
    for section in ("layer", "model"):
        for record in of(records, section):
            lines += [f"- {name(record)}, {PEERS[peer]}: {why}" for peer, why in record["failures"].items()]
    without = sum("torch.compile" not in {**r["ratios"], **r["failures"]} for s in ("layer", "model") for r in of(records, s))
    return [*lines, f"- {without} cases without torch.compile, for want of time." if without else ""]


def write(records: list[Record], about: dict[str, Any], out: Path) -> None:
    timed = [record for section in ("layer", "model", "growth") for record in of(records, section)]
    load = max((record["load"] for record in timed), default=0.0)
    pairs = [record["pairs"].get("stock", 0) for record in of(records, "layer") if "stock" in record["pairs"]]
    slower = [[name(r), cell(r["ratios"]["stock"]), "yes" if r["stock_program"] else "no"] for r in slower_than_stock(records)]
    lines = [
        "# fnn beside its peers",
        "",
        f"`{about['command']}`: {about['versions']}. Up to 30 pairs, {min(pairs, default=0)} at least against stock JAX.",
        f"Other processes took up to {load:.0%} of the processors. {METHOD}",
        "",
        "![The time of fnn over that of PyTorch eager, forward with gradients](results.svg)",
        "",
        "## Targets",
        "",
        *table(["target", "figure", "met"], targets(records)),
        "## Geometric means, float32: forward / forward with gradients",
        "",
        *summary(records, "float32"),
    ]
    if of(records, "layer", dtype="bfloat16"):
        lines += ["## Geometric means, bfloat16", "", *summary(records, "bfloat16")]
    lines += ["## Whole models", "", *cases(records, "model")]
    if slower:
        lines += ["## Slower than stock JAX", "", *table(["case", "ratio", "plain_kernels has the same program"], slower)]
    lines += [*others(records), "## All layers", "", *cases(records, "layer")]
    failed = [text for text in left_out(records) if text]
    lines += ["## Left out", "", *failed, ""] if failed else []
    (out / "results.md").write_text("\n".join(lines))
    draw(records, out / "results.svg")


def draw(records: list[Record], path: Path) -> None:
    """A bar a case, on a logarithmic axis; marks for what the peers take."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "fnn", "font.size": 7})
    found = [r for s in ("model", "layer") for r in of(records, s, "gradient", "float32") if "torch" in r["ratios"]]
    if not found:
        return
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.155 * len(found)))
    color: Callable[[float], str] = lambda ratio: "#2a7f62" if ratio <= 1 else "#d9a441" if ratio <= 2 else "#b5473c"  # noqa: E731
    for row, record in enumerate(found):
        low, median, high = record["ratios"]["torch"]
        axes.barh(row, median - 1, left=1, height=0.7, color=color(median))
        axes.plot([low, high], [row, row], color="black", linewidth=0.6)
    for peer, mark in (("stock", "|"), ("flax", "x"), ("equinox", "+"), ("torch.compile", ".")):
        points = [(r["ratios"]["torch"][1] / r["ratios"][peer][1], row) for row, r in enumerate(found) if peer in r["ratios"]]
        axes.plot(
            *zip(*points, strict=True) if points else ([], []),
            mark,
            color="#555555",
            markersize=4,
            linewidth=0,
            label=PEERS[peer],
        )
    axes.set_yticks(range(len(found)), [", ".join(record["key"][1:3]) for record in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", which="major", linewidth=0.3)
    axes.set_xlabel("time over PyTorch eager's, forward with gradients (training step), float32: bars fnn, marks the others")
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
