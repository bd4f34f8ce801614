"""What model code asks of `F._Reduction`: reductions by torch's numbers, and by its older arguments."""

from __future__ import annotations

import warnings

from fnn.functional.loss import reduction_of


def get_enum(reduction: str) -> int:
    """0 for none, 1 for mean, 2 for sum.

    Raises:
        ValueError: for any other reduction.

    Example:
        >>> get_enum("sum")
        2
    """
    return ("none", "mean", "sum").index(reduction_of(None, None, reduction))


def legacy_get_string(size_average: bool | None, reduce: bool | None, emit_warning: bool = True) -> str:
    """The reduction that the older arguments mean, which are deprecated."""
    with warnings.catch_warnings():
        if not emit_warning:
            warnings.simplefilter("ignore")
        return reduction_of(size_average is not False, reduce, "mean")


def legacy_get_enum(size_average: bool | None, reduce: bool | None, emit_warning: bool = True) -> int:
    """As `legacy_get_string`, as a number."""
    return get_enum(legacy_get_string(size_average, reduce, emit_warning))
