"""Checkpoint files: what PyTorch and safetensors wrote is read, and written for them, without torch."""

from fnn.serialization.reading import load
from fnn.serialization.tensors import CheckpointError
from fnn.serialization.unpickling import Unknown
from fnn.serialization.writing import save

__all__ = ["CheckpointError", "Unknown", "load", "save"]
