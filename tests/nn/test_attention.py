"""The choice among torch's implementations of attention."""

import jax.numpy as jnp
import pytest
from oracle import assert_close, assert_refused, normal, tensor, torch

import fnn
import fnn.nn as nn
from fnn.nn.attention import SDPBackend, sdpa_kernel


def test_backends_have_torchs_names_and_numbers():
    theirs = torch.nn.attention.SDPBackend
    assert {name: int(value) for name, value in SDPBackend.__members__.items()} == {
        name: int(value) for name, value in theirs.__members__.items()
    }


@pytest.mark.parametrize("backends", [[], [1, 2], SDPBackend.MATH, [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]])
def test_a_block_changes_nothing(backends):
    x = normal(1, 2, 3, 4)
    attend = fnn.jit(lambda x: nn.functional.scaled_dot_product_attention(x, x, x))
    with sdpa_kernel(backends, set_priority=True):
        out = attend(jnp.asarray(x))
    assert_close(out, torch.nn.functional.scaled_dot_product_attention(*[tensor(x)] * 3))


@pytest.mark.parametrize("backends", [None, "math", (0, 1)])
def test_what_is_no_backend_is_refused(backends):
    def call(lib, _):
        with lib.attention.sdpa_kernel(backends):
            pass

    assert_refused(call, "Backend must be an instance of SDPBackend or a list")
