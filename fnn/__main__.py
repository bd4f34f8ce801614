"""The command line: `python -m fnn inspect FILE` and `python -m fnn convert FILE FILE`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from fnn.serialization import load, save
from fnn.serialization.reading import read, replace
from fnn.serialization.tensors import Tensor


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, or 1 after an error, which it prints. A wrong usage exits with 2."""
    parser = argparse.ArgumentParser(prog="python -m fnn", description="Checkpoint files of PyTorch and safetensors.")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="list what a file holds, without reading its tensors")
    convert = commands.add_parser("convert", help="write a file in the format that the other's name says")
    inspect.add_argument("file", help="a file, an index of shards, or a folder")
    convert.add_argument("source", help="a file, an index of shards, or a folder")
    convert.add_argument("target", help="a name that ends with .safetensors, .pt, .pth, .bin or .ckpt")
    convert.add_argument("--key", help="write this entry alone, such as state_dict or model.weights, of a dict (of dicts)")
    convert.add_argument("--max-shard-size", help="write several files and an index above this size, such as 5GB")
    for command in (inspect, convert):
        command.add_argument("--skip-unknown", action="store_true", help="read the rest of a file that holds unknown objects")
    options = parser.parse_args(arguments)
    try:
        if options.command == "inspect":
            print_table(read(options.file, options.skip_unknown))
        else:
            state = select(load(options.source, skip_unknown=options.skip_unknown), options.key)
            save(state, options.target, max_shard_size=options.max_shard_size)
    except (ImportError, LookupError, OSError, TypeError, ValueError) as error:
        print(f"{parser.prog} {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


def select(tree: Any, key: str | None) -> Any:
    """The entry of a dict of dicts that a dotted key names; keys may have dots themselves."""
    if not key:
        return tree
    for name in tree if isinstance(tree, dict) else ():
        if key == str(name) or key.startswith(f"{name}."):
            return select(tree[name], key[len(str(name)) + 1 :])
    there = (
        ", ".join(_printable(str(name)) for name in list(tree)[:20]) if isinstance(tree, dict) else f"a {type(tree).__name__}"
    )
    raise ValueError(f"there is no entry {key!r}; there is {there}")


def print_table(tree: Any) -> None:
    """Prints names, shapes, dtypes and sizes of tensors, other values, and totals."""
    names: dict[Tensor, str] = {}
    header = ("name", "shape", "dtype", "size", "")
    widths = [len(cell) for cell in header]
    count = total = elements = 0

    def row(name: str, tensor: Tensor) -> tuple[str, ...]:
        first = names.setdefault(tensor, name)
        note = "" if first == name else f"the same as {_printable(first)}"
        shape = "x".join(map(str, tensor.shape)) or "()"
        return _printable(name), shape, tensor.dtype.name, _size(tensor.nbytes), note

    def measure(name: str, tensor: Tensor) -> Tensor:
        nonlocal widths, count, total, elements
        count += 1
        if tensor not in names:
            total, elements = total + tensor.nbytes, elements + tensor.size
        widths = [max(width, len(cell)) for width, cell in zip(widths, row(name, tensor), strict=True)]
        return tensor

    def show(*cells: str) -> None:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())

    def print_row(name: str, tensor: Tensor) -> Tensor:
        show(*row(name, tensor))
        return tensor

    replace(tree, measure)
    show(*header)
    replace(tree, print_row)  # again, since rows may take more memory than the file
    print(f"{count} tensors, {elements:,} elements, {_size(total)}")


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)  # a terminal would obey control characters


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


if __name__ == "__main__":
    sys.exit(main())
