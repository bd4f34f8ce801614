"""linear agrees with torch."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_both_raise, normal, tensor, torch

import fnn.functional as F


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
def test_maps_the_last_axis(lead, bias, dtype):
    operands = [normal(*lead, 5, dtype=dtype), normal(4, 5, dtype=dtype), normal(4, dtype=dtype) if bias else None]
    assert_agree(F.linear, torch.nn.functional.linear, *operands)
