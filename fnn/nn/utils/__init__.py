"""Tools around layers, `torch.nn.utils`."""

from fnn.nn.utils import rnn

__all__ = ["rnn"]
