"""Nested dicts and dotted names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def nest(named: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dict from dotted names.

    Example:
        >>> nest({"layer.weight": 1, "layer.bias": 2})
        {'layer': {'weight': 1, 'bias': 2}}
    """
    tree: dict[str, Any] = {}
    for name, value in named.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def unnest(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names from a nested dict.

    Example:
        >>> unnest({"layer": {"weight": 1, "bias": 2}})
        {'layer.weight': 1, 'layer.bias': 2}
    """
    named: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            named.update(unnest(value, f"{prefix}{name}."))
        else:
            named[f"{prefix}{name}"] = value
    return named
