"""Optimizer over optax, and averaged models."""

from fnn.optim import swa_utils
from fnn.optim.optimizer import Optimizer
from fnn.optim.swa_utils import AveragedModel

__all__ = ["AveragedModel", "Optimizer", "swa_utils"]
