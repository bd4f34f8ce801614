"""DataParallel spreads the batch over the devices, and changes no number."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import torch

import fnn.nn as nn

SEVERAL_DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp, numpy as np
import fnn, fnn.nn as nn

x = np.random.default_rng(0).normal(size=(8, 3, 5, 5)).astype(np.float32)
for devices, batch, count in ((None, 8, 4), ([1, 3], 8, 2), (None, 6, 2), (None, 7, 1)):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    twin = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    twin.load_state_dict(net.state_dict())
    parallel = nn.DataParallel(net, devices)
    for call in (parallel, fnn.jit(lambda x: parallel(x))):
        out = call(x[:batch])
        assert len(out.sharding.device_set) == count, (out.sharding, devices, batch)
        np.testing.assert_allclose(out, twin(x[:batch]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net[1].running_var.value, twin[1].running_var.value, rtol=1e-5)
net = nn.DataParallel(nn.Linear(3, 2), dim=1)
assert len(net(jnp.ones((5, 8, 3))).sharding.device_set) == 4
"""


def test_the_batch_is_spread_over_the_devices_and_statistics_are_of_all_of_it():
    run = subprocess.run([sys.executable, "-c", SEVERAL_DEVICES], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_checkpoints_have_its_prefix_as_in_torch():
    ours, theirs = nn.DataParallel(nn.Linear(3, 2)), torch.nn.DataParallel(torch.nn.Linear(3, 2))
    assert repr(ours) == repr(theirs)
    ours.load_state_dict(theirs.state_dict())
    x = np.ones((4, 3), np.float32)
    np.testing.assert_allclose(ours(jnp.asarray(x)), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-6)


def test_arguments_without_the_axis_are_left_as_they_are():
    class Scaled(nn.Module):
        def forward(self, x, scale, name=None):
            return x * scale, name

    out, name = nn.DataParallel(Scaled())(jnp.ones((4, 2)), jnp.array(3.0), name="kept")
    assert (out == 3).all()
    assert name == "kept"


def test_container_is_deprecated_as_in_torch():
    with pytest.warns(FutureWarning, match="deprecated"):
        ours = nn.Container(a=nn.Linear(2, 3), b=nn.Identity())
    with pytest.warns(FutureWarning):
        theirs = torch.nn.Container(a=torch.nn.Linear(2, 3), b=torch.nn.Identity())
    assert repr(ours) == repr(theirs)
