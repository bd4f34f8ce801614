"""torch.nn on JAX: every layer as a pair of pure functions, and as the Module that PyTorch users know."""

from fnn import functional, nn, optim, precision
from fnn.checkpoints import CheckpointManager, load_checkpoint, save_checkpoint
from fnn.compilation import jit
from fnn.debugging import NanReport, find_nan
from fnn.grad_scaler import GradScaler
from fnn.kernels import plain_kernels
from fnn.precision import Policy, autocast
from fnn.pure import Layer, bound, functional_call, pure, split, update
from fnn.random import Generator, manual_seed, rng
from fnn.scan import scan_layers
from fnn.scope import StateError
from fnn.serialization import CheckpointError, load, save
from fnn.summary import summary
from fnn.transforms import backward, capture, checkpoint, grad, value_and_grad

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "CheckpointManager",
    "Generator",
    "GradScaler",
    "Layer",
    "NanReport",
    "Policy",
    "StateError",
    "autocast",
    "backward",
    "bound",
    "capture",
    "checkpoint",
    "find_nan",
    "functional",
    "functional_call",
    "grad",
    "jit",
    "load",
    "load_checkpoint",
    "manual_seed",
    "nn",
    "optim",
    "plain_kernels",
    "precision",
    "pure",
    "rng",
    "save",
    "save_checkpoint",
    "scan_layers",
    "split",
    "summary",
    "update",
    "value_and_grad",
]
