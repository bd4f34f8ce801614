"""What a file is answered with that is not read, or not as a whole."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A file that is damaged, hostile, or holds what cannot be read; the message names the file and what is wrong."""


class Unknown:
    """Stands in for an object of a class that is not read; it holds nothing but the name of the class.

    Attributes:
        name: the class, with its module.
    """

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"<unknown {self.name}>"
