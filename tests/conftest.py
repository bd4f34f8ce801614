"""A test draws the same numbers whatever ran before it or beside it."""

import sys
import zlib

import hypothesis
import numpy as np
import pytest

import fnn

hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.load_profile("same")


def seed(name: str) -> None:
    """Seeds every generator that tests share."""
    number = zlib.crc32(name.encode())
    np.random.seed(number)
    fnn.manual_seed(number)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(number)


def pytest_collectstart(collector: pytest.Collector) -> None:
    seed(collector.nodeid)  # modules draw the operands of their tables


def pytest_runtest_setup(item: pytest.Item) -> None:
    seed(item.nodeid)
