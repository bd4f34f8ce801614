"""Damaged and hostile checkpoint files, by the thousand: what fnn.load makes of them.

    python tests/serialization/fuzz.py [--files 10000] [--seed 0]

Files that torch and safetensors wrote are changed at random and read in forked processes that may take 256 MiB beyond the
size of the file, 20 seconds, and nothing else: an audit hook ends a process that runs a command, imports, or writes.
Writes the table to tests/serialization/fuzz.md, and exits with 1 where a file did what it should not.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import hashlib
import io
import json
import os
import platform
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fnn.serialization import CheckpointError, load
from fnn.serialization.archive import ArchiveWriter

ROOM = 256 << 20
SECONDS = 20
BATCH = 50
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "import",
    "exec",
    "os.remove",
)


def honest() -> dict[str, bytes]:
    """Files of each format, of a few kilobytes."""
    import safetensors.torch
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(5, 3, dtype=torch.bfloat16))
    whole = torch.arange(24.0).reshape(4, 6)
    checkpoint = {
        "model": net.state_dict(),
        "tied": [whole, whole.t(), whole[1:, ::2], whole],
        "optimizer": {
            "state": {0: {"step": torch.tensor(3), "exp_avg": torch.ones(4)}},
            "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}],
        },
        "float8": torch.ones(5).to(torch.float8_e4m3fn),
        "complex": torch.tensor([1 + 2j]).conj(),
        "numpy": [np.float64(2.5), np.arange(6).reshape(2, 3)],
        "plain": [None, True, 2**70, "text", b"bytes", {1, 2}, torch.Size([2]), torch.float16, torch.device("cpu"), 1 + 2j],
    }
    files = {}
    for name, options in (
        ("zip", {}),
        ("zip, protocol 4", {"pickle_protocol": 4}),
        ("legacy", {"_use_new_zipfile_serialization": False}),
    ):
        file = io.BytesIO()
        torch.save(checkpoint, file, **options)
        files[name] = file.getvalue()
    files["safetensors"] = safetensors.torch.save(
        {name: value.clone() for name, value in net.state_dict().items()}, {"format": "pt"}
    )
    return files


def flip(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def splice(content: bytes, draw: random.Random) -> bytes:
    start, stop = sorted(draw.randrange(len(content)) for _ in range(2))
    part = content[start : min(stop, start + draw.choice((1, 4, 16, 200, 10**6)))]
    at = draw.randrange(len(content))
    return content[:at] + part + content[at + draw.choice((0, len(part))) :]


def overwrite(content: bytes, draw: random.Random) -> bytes:
    """A number put anywhere, as sizes and offsets are."""
    number = draw.choice((0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**63, 2**64 - 1))
    packed = struct.pack("<Q", number)[: draw.choice((1, 2, 4, 8))]
    at = draw.randrange(len(content))
    return content[:at] + packed + content[at + len(packed) :]


def headers(content: bytes, draw: random.Random) -> bytes:
    """Fields of the headers: of the archive's, or of the JSON."""
    data = bytearray(content)
    if content.startswith(b"PK"):
        sign, size = draw.choice(((b"PK\1\2", 46), (b"PK\3\4", 30), (b"PK\5\6", 22), (b"PK\6\6", 56), (b"PK\6\7", 20)))
        places = [match.start() for match in re.finditer(re.escape(sign), content)]
        if places:
            at = draw.choice(places) + draw.randrange(4, size)
            for i in range(draw.choice((1, 2, 4))):
                if at + i < len(data):
                    data[at + i] = draw.choice((0, 1, 0xFF, draw.randrange(256)))
        return bytes(data)
    if content[8:9] != b"{":
        return overwrite(content[: len(content) // 2], draw) + content[len(content) // 2 :]
    (size,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + size])
    entry = header[draw.choice([name for name in header if name != "__metadata__"])]
    what = draw.randrange(6)
    if what == 0:
        entry["shape"] = [draw.choice((0, 1, -1, 2**31, 2**62, 2**70)) for _ in range(draw.randrange(9))]
    elif what == 1:
        entry["data_offsets"] = [draw.choice((0, -1, 4, 2**40, 2**70)) for _ in range(draw.choice((1, 2, 2, 3)))]
    elif what == 2:
        entry["dtype"] = draw.choice(("F64", "F4", "U8", "X", "", None, "C128"))
    elif what == 3:
        header["__metadata__"] = draw.choice(({"a": "b"}, {"x": next(iter(header))}, [], None, {"a": 1}))
    elif what == 4:
        header["../../x"] = entry
    text = json.dumps(header).encode()
    if what == 5:
        text = text.replace(b"{", draw.choice((b"{{", b"[", b'{"a":' * 1000, b"")), 1)
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def opcodes(content: bytes, draw: random.Random) -> bytes:
    """Instructions of the pickle, with checksums that fit."""
    if content.startswith(b"PK"):
        archive = zipfile.ZipFile(io.BytesIO(content))
        members = {name: archive.read(name) for name in archive.namelist()}
        name = next(name for name in members if name.endswith("data.pkl"))
        members[name] = _edited(members[name], draw)
        file = io.BytesIO()
        writer = ArchiveWriter(file, name.partition("/")[0])
        for path, value in members.items():
            writer.add(path.partition("/")[2], [value], len(value))
        writer.close()
        return file.getvalue()
    if content[8:9] == b"{":
        return headers(content, draw)
    return _edited(content, draw)


HOSTILE = (
    b"cos\nsystem\nX\x04\0\0\0true\x85R",
    b"cposix\nsystem\n(X\x04\0\0\0truetR",
    b"c__builtin__\neval\nX\x01\0\0\x001\x85R",
    b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R",
    b"(ios\nsystem\n",
    b"cbuiltins\ngetattr\n",
    b"}" * 3000,
    b"\x8f" * 3000,
    b"]" * 3000,
    b"\x85" * 3000,
    b"2" * 100,
    b"0" * 5,
    b"(" * 100,
    b"r\xff\xff\xff\x7f",
    b"\x8b\xff\xff\xff\x7f",
    b"\x8e" + b"\xff" * 8,
    b"X\xff\xff\xff\xff",
    b"\x82\x01",
    b"e",
    b"u",
    b"s",
    b"b",
    b"R",
    b"\x81",
    b"Q",
    b"h\0",
    b"h\x05",
    b"J\xff\xff\xff\xff",
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ccollections\nOrderedDict\n",
)


def _edited(pickled: bytes, draw: random.Random) -> bytes:
    data = pickled
    for _ in range(draw.choice((1, 1, 2, 5))):
        at, what = draw.randrange(len(data)), draw.randrange(4)
        if what == 0:
            data = data[:at] + draw.choice(HOSTILE) + data[at:]
        elif what == 1:
            data = data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
        elif what == 2:
            data = data[:at] + data[at + draw.choice((1, 2, 5, 20)) :]
        else:
            data = flip(data, draw)
    return data


MUTATIONS = (flip, cut, splice, overwrite, headers, opcodes)


def digest(tree: Any) -> str:
    """Of all values, types, shapes and what is shared; also reads every byte that arrays of sane size have."""
    total = hashlib.sha256()
    seen: dict[int, int] = {}

    def add(value: Any) -> None:
        total.update(type(value).__name__.encode())
        if isinstance(value, (dict, list, tuple, np.ndarray)):
            if id(value) in seen:
                total.update(b"seen%d" % seen[id(value)])
                return
            seen[id(value)] = len(seen)
        if isinstance(value, dict):
            for key, item in value.items():
                add(key)
                add(item)
            for name, item in getattr(value, "__dict__", {}).items():
                add(name)
                add(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                add(item)
        elif isinstance(value, np.ndarray):
            total.update(f"{value.dtype}{value.shape}".encode())
            if value.nbytes < 1 << 22:
                total.update(value.tobytes())
        elif isinstance(value, (set, frozenset)):
            total.update(repr(sorted(map(repr, value))).encode())
        else:
            total.update(repr(value).encode() if not isinstance(value, int) else hex(value).encode())

    add(tree)
    return total.hexdigest()


def virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def guard(event: str, arguments: Any) -> None:
    """An audit hook: ends the process where anything but reading is tried."""
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if event in FORBIDDEN or writes:
        os.write(2, f"forbidden: {event} {arguments!r}\n".encode()[:300])
        os._exit(66)


def outcome(path: str, size: int, base: int, right: str) -> str:
    resource.setrlimit(resource.RLIMIT_AS, (base + ROOM + size, resource.RLIM_INFINITY))
    signal.alarm(SECONDS)
    try:
        tree = load(path)
        return "as written" if digest(tree) == right else "read otherwise"
    except CheckpointError as error:
        return "memory" if isinstance(error.__cause__, MemoryError) else "refused"
    except RecursionError:
        return "recursion"
    except MemoryError:
        return "memory"
    except BaseException as error:
        return f"raised {type(error).__name__}"


def in_child(cases: list[tuple[str, int, str]]) -> list[str]:
    """The outcomes of files that a forked process reads one after the other; the last one may be its end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        faulthandler.disable()
        sys.addaudithook(guard)
        base = virtual()
        for case in cases:
            os.write(writing, f"{outcome(case[0], case[1], base, case[2])}\n".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        outcomes = file.read().splitlines()
    _, status = os.waitpid(child, 0)
    if len(outcomes) < len(cases):
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        outcomes.append("hung" if number == signal.SIGALRM else f"signal {number}" if number else "ran code")
    return outcomes


def acceptable(kind: str, mutation: str, result: str) -> bool:
    if result == "read otherwise":  # where the format has no checksum, or the mutation made it fit
        return not kind.startswith("zip") or mutation == "opcodes"
    return result in ("refused", "as written")


def run(count: int, seed: int, folder: Path) -> tuple[dict[tuple[str, str], collections.Counter[str]], list[str]]:
    """Outcomes by format and mutation, and the files that did what they should not."""
    draw = random.Random(seed)
    files = honest()
    right = {}
    for kind, content in files.items():
        path = folder / ("right" + (".safetensors" if kind == "safetensors" else ".pt"))
        path.write_bytes(content)
        right[kind] = digest(load(path))
    cases = []
    for number in range(count):
        kind = draw.choice(list(files))
        mutation = draw.choice(MUTATIONS)
        content = mutation(files[kind], draw)
        path = folder / f"{number}{'.safetensors' if kind == 'safetensors' else '.pt'}"
        path.write_bytes(content or b"\0")
        cases.append((kind, mutation.__name__, path, len(content)))
    table: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    wrong = []
    done = 0
    while done < count:
        batch = cases[done : done + BATCH]
        for (kind, mutation, path, _), result in zip(
            batch, in_child([(str(c[2]), c[3], right[c[0]]) for c in batch]), strict=False
        ):
            table[kind, mutation][result] += 1
            done += 1
            if acceptable(kind, mutation, result):
                path.unlink()
            else:
                wrong.append(f"{kind}, {mutation}, {path}: {result}")
    return table, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    table, wrong = run(options.files, options.seed, folder)
    seconds = time.perf_counter() - start
    kinds = sorted({result for row in table.values() for result in row})
    lines = [
        f"{options.files} files, seed {options.seed}, {seconds:.0f} s, Python {platform.python_version()}: {len(wrong)} did "
        "what they should not. `read otherwise` is accepted where the format has no checksum for what was changed.",
        "",
        f"| format | change | {' | '.join(kinds)} |",
        f"| --- | --- | {' | '.join('---' for _ in kinds)} |",
    ]
    for (kind, mutation), row in sorted(table.items()):
        lines.append(f"| {kind} | {mutation} | {' | '.join(str(row[result]) for result in kinds)} |")
    print("\n".join([*lines, *wrong]))
    if options.files >= 10_000:
        Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
