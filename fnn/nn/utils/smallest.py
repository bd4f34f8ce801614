"""Which elements `torch.topk` picks where some are equal.

torch leaves it open, and the devices differ. On a CPU it selects as the C++ library of GNU does, by `std::nth_element` or, for
few elements of many, `std::partial_sort`; `prune` does the same here, so that it prunes the same weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_MOST = 1 << 20  # beyond as many elements, which take half a second, the first ones of equal elements are picked


def smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Whether each element of a vector is among the `count` smallest; NaN counts as the largest."""
    if not count:
        return np.zeros(len(values), bool)
    ranks = np.unique(values, return_inverse=True)[1].reshape(-1)
    last = np.partition(ranks, count - 1)[count - 1]
    if np.count_nonzero(ranks <= last) == count:
        return np.asarray(ranks <= last)
    if len(ranks) > _MOST:
        picked = np.argsort(ranks, kind="stable")[:count]
    else:
        queue = list(zip(ranks.tolist(), range(len(ranks)), strict=True))
        if 64 * count <= len(queue):
            _heap_select(queue, 0, count, len(queue))
        else:
            _nth_element(queue, count - 1)
        picked = np.array([index for _, index in queue[:count]])
    chosen = np.zeros(len(values), bool)
    chosen[picked] = True
    return chosen


def _nth_element(queue: list[Any], nth: int) -> None:
    first, last, depth = 0, len(queue), 2 * (len(queue).bit_length() - 1)
    while last - first > 3:
        if not depth:
            _heap_select(queue, first, nth + 1, last)
            queue[first], queue[nth] = queue[nth], queue[first]
            return
        depth -= 1
        cut = _partition(queue, first, last)
        first, last = (cut, last) if cut <= nth else (first, cut)
    queue[first:last] = sorted(queue[first:last], key=lambda item: item[0])  # stable, as their insertion sort


def _partition(queue: list[Any], first: int, last: int) -> int:
    a, b, c = first + 1, first + (last - first) // 2, last - 1
    x, y, z = queue[a][0], queue[b][0], queue[c][0]
    if x < y:
        middle = b if y < z else c if x < z else a
    else:
        middle = a if x < z else c if y < z else b
    queue[first], queue[middle] = queue[middle], queue[first]
    pivot, low, high = queue[first][0], first + 1, last
    while True:
        while queue[low][0] < pivot:
            low += 1
        high -= 1
        while pivot < queue[high][0]:
            high -= 1
        if low >= high:
            return low
        queue[low], queue[high] = queue[high], queue[low]
        low += 1


def _heap_select(queue: list[Any], first: int, middle: int, last: int) -> None:
    heap = queue[first:middle]
    for parent in reversed(range(len(heap) // 2)):
        _sift(heap, parent, heap[parent])
    for i in range(middle, last):
        if queue[i][0] < heap[0][0]:
            item, queue[i] = queue[i], heap[0]
            _sift(heap, 0, item)
    queue[first:middle] = heap


def _sift(heap: list[Any], hole: int, item: Any) -> None:
    """Puts an item at a hole of a heap, or below it: moves the hole down to a leaf, then the item up."""
    top, end = hole, len(heap)
    while (child := 2 * hole + 2) <= end:
        if child == end or heap[child][0] < heap[child - 1][0]:
            child -= 1
        heap[hole] = heap[child]
        hole = child
    while hole > top and heap[(hole - 1) // 2][0] < item[0]:
        heap[hole] = heap[(hole - 1) // 2]
        hole = (hole - 1) // 2
    heap[hole] = item
