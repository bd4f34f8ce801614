"""Training checkpoints: all that training needs, in one file or through orbax; all of it or nothing."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
import fnn.nn as nn
import fnn.nn.functional as F


class Training:
    """A model with dropout and batch statistics, an optimizer of groups with a schedule, and what is around them."""

    def __init__(self, seed):
        fnn.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3))
        rate = optax.warmup_cosine_decay_schedule(0.0, 0.05, 4, 20)
        groups = {"*.bias": optax.sgd(rate, momentum=0.9), "*": optax.adamw(rate, weight_decay=0.1)}
        self.optimizer = fnn.optim.Optimizer(self.net, groups)
        self.scaler = fnn.GradScaler(init_scale=2.0**10, growth_interval=3)
        self.average = fnn.optim.AveragedModel(self.net, use_buffers=True)

    def parts(self):
        return {"model": self.net, "optimizer": self.optimizer, "scaler": self.scaler, "average": self.average}

    def step(self, x, y):
        loss, grads = fnn.value_and_grad(lambda net: self.scaler.scale(F.cross_entropy(net(x), y)))(self.net)
        self.scaler.step(self.optimizer, grads)
        self.scaler.update()
        self.average.update_parameters(self.net)
        return loss

    def run(self, start, stop, compiled):
        step = fnn.jit(self.step) if compiled else self.step
        for i in range(start, stop):
            step(*batch(i))


def batch(i):
    random = np.random.default_rng(i)
    return random.normal(size=(16, 6)).astype(np.float32), random.integers(0, 3, 16)


def resume(path, result, compiled):
    """What a new process does."""
    training = Training(seed=1)
    start = fnn.load_checkpoint(path, **training.parts())["step"]
    training.run(start, 20, compiled == "True")
    fnn.save_checkpoint(result, step=20, **training.parts())


@pytest.mark.parametrize("compiled", [True, False])
def test_training_resumes_bit_by_bit_in_a_new_process(compiled, tmp_path):
    at_once, half, resumed = (tmp_path / name for name in ("at_once.pt", "half.pt", "resumed.pt"))
    training = Training(seed=0)
    training.run(0, 10, compiled)
    fnn.save_checkpoint(half, step=10, **training.parts())
    training.run(10, 20, compiled)
    fnn.save_checkpoint(at_once, step=20, **training.parts())
    subprocess.run([sys.executable, __file__, half, resumed, str(compiled)], check=True)
    assert at_once.read_bytes() == resumed.read_bytes()
    assert half.read_bytes() != resumed.read_bytes()


def linear(seed=0):
    fnn.manual_seed(seed)
    net = nn.Linear(2, 1)
    return net, fnn.optim.Optimizer(net, optax.adam(1e-3))


def values(*things):
    return [{key: np.asarray(value).tolist() for key, value in thing.state_dict().items()} for thing in things]


def test_what_is_no_part_comes_back(tmp_path):
    net, optimizer = linear()
    config = {"rates": (0.1, 2), "name": "a", 3: None}
    fnn.save_checkpoint(tmp_path / "a.pt", model=net, optimizer=optimizer, epoch=2, config=config, noise=fnn.Generator(7))
    noise = fnn.Generator()
    rest = fnn.load_checkpoint(tmp_path / "a.pt", model=net, noise=noise)
    assert noise.initial_seed() == 7
    assert rest.pop("optimizer").keys() == optimizer.state_dict().keys()
    assert rest == {"epoch": 2, "config": config}


def test_torch_reads_checkpoints_and_writes_them(tmp_path):
    torch = pytest.importorskip("torch")
    net, optimizer = linear()
    fnn.save_checkpoint(tmp_path / "a.pt", model=net, optimizer=optimizer, step=5)
    checkpoint = torch.load(tmp_path / "a.pt", weights_only=True)
    theirs = torch.nn.Linear(2, 1)
    theirs.load_state_dict(checkpoint["model"])
    assert checkpoint["step"] == 5
    assert checkpoint["generator"] == fnn.random.default_generator.get_state()
    torch.save({"net": theirs.state_dict(), "epoch": 3}, tmp_path / "b.pt")
    before, (other, _) = fnn.manual_seed(4).get_state(), linear(1)
    fnn.manual_seed(4)
    assert fnn.load_checkpoint(tmp_path / "b.pt", net=other) == {"epoch": 3}
    assert values(other) == values(net)
    assert fnn.random.default_generator.get_state() == before


class Sampler:
    """An object of the user's own with a state."""

    def __init__(self, position):
        self.state = {"position": position, "order": [position]}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state["order"].clear()
        if state["position"] == 13:
            raise ValueError("unlucky")
        self.state = dict(state)


class WithExtraState(nn.Linear):
    extra = None

    def get_extra_state(self):
        return {"extra": self.extra}

    def set_extra_state(self, state):
        self.extra = state["extra"]


@pytest.mark.parametrize(
    ("part", "saved", "error"),
    [
        ("optimizer", fnn.optim.Optimizer(nn.Linear(2, 1), optax.sgd(0.1, momentum=0.9)), ValueError),
        ("model", nn.Linear(3, 1), RuntimeError),
        ("sampler", Sampler(13), ValueError),
        ("generator", Sampler(1), TypeError),
        ("scaler", Sampler(1), KeyError),
    ],
)
def test_a_mismatch_in_one_part_changes_no_part(part, saved, error, tmp_path):
    extra = WithExtraState(1, 1)
    extra.extra = "new"
    net, optimizer = linear()
    new = {"extra": extra, "sampler": Sampler(1), "model": net, "optimizer": optimizer, "scaler": fnn.GradScaler(1.0)}
    fnn.save_checkpoint(tmp_path / "a.pt", **new)
    states = fnn.load(tmp_path / "a.pt")
    fnn.save({**states, part: saved.state_dict()}, tmp_path / "a.pt")

    (net, optimizer), sampler, scaler = linear(1), Sampler(2), fnn.GradScaler(8.0)
    generator = fnn.Generator(9)
    extra.extra = "old"
    before = values(net, optimizer, scaler)
    with pytest.raises(error) as caught:
        fnn.load_checkpoint(
            tmp_path / "a.pt", extra=extra, sampler=sampler, model=net, optimizer=optimizer, scaler=scaler, generator=generator
        )
    assert f"In the part '{part}' of" in caught.value.__notes__[0]
    assert values(net, optimizer, scaler) == before
    assert sampler.state == {"position": 2, "order": [2]}
    assert extra.extra == "old"
    assert generator.get_state() == fnn.Generator(9).get_state()


def test_missing_parts_and_plain_values_are_refused(tmp_path):
    net, optimizer = linear()
    fnn.save_checkpoint(tmp_path / "a.pt", model=net, step=1)
    with pytest.raises(fnn.CheckpointError, match="no part 'optimizer', 'average'; there are model, step, generator"):
        fnn.load_checkpoint(tmp_path / "a.pt", model=net, optimizer=optimizer, average=net)
    with pytest.raises(TypeError, match="step: no object that has a load_state_dict"):
        fnn.load_checkpoint(tmp_path / "a.pt", model=net, step=0)
    fnn.save([1], tmp_path / "b.pt")
    with pytest.raises(fnn.CheckpointError, match="a dict of parts, the file holds a list"):
        fnn.load_checkpoint(tmp_path / "b.pt", model=net)


def test_a_failed_save_leaves_the_old_file(tmp_path):
    net, _ = linear()
    fnn.save_checkpoint(tmp_path / "a.pt", model=net, step=1)
    with pytest.raises(TypeError, match="log"):
        fnn.save_checkpoint(tmp_path / "a.pt", model=net, step=2, log=object())
    assert fnn.load_checkpoint(tmp_path / "a.pt", model=net) == {"step": 1}
    assert os.listdir(tmp_path) == ["a.pt"]


def test_orbax_restores_bit_by_bit(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    training = Training(seed=0)
    step = fnn.jit(training.step)
    with fnn.CheckpointManager(tmp_path / "run", max_to_keep=2) as checkpoints:
        for i in range(3):
            step(*batch(i))
            fnn.save_checkpoint(tmp_path / f"{i}.pt", **training.parts())
            assert checkpoints.save(i, names=["a", None], **training.parts())  # training goes on while it is written
        assert checkpoints.manager.all_steps() == [1, 2]
    other = Training(seed=1)
    with fnn.CheckpointManager(tmp_path / "run") as checkpoints:
        for i, found in ((1, checkpoints.load(1, **other.parts())), (2, checkpoints.load(**other.parts()))):
            assert found == {"names": ["a", None], "step": i}
        fnn.save_checkpoint(tmp_path / "restored.pt", **other.parts())
        assert (tmp_path / "restored.pt").read_bytes() == (tmp_path / "2.pt").read_bytes()
        assert checkpoints.load(1, model=other.net) == {"names": ["a", None], "step": 1}
        assert fnn.load(tmp_path / "1.pt")["model"]["0.weight"].tolist() == other.net[0].weight.tolist()


def test_orbax_checkpoints_are_refused_as_a_whole(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    net, optimizer = linear()
    net.register_buffer("empty", jnp.zeros((0, 3)))
    with fnn.CheckpointManager(tmp_path) as checkpoints:
        with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
            checkpoints.load(model=net)
        for value in ({1: 2}, (1, 2), object(), np.ones(2)):
            with pytest.raises(TypeError, match=r"config: .*JSON"):
                checkpoints.save(1, model=net, config=value)
        numbered = Sampler(1)
        numbered.state = {0: np.ones(1)}
        with pytest.raises(TypeError, match="state: orbax holds states that are dicts"):
            checkpoints.save(1, state=numbered)
        assert checkpoints.save(1, model=net, optimizer=optimizer)
        assert not checkpoints.save(1, model=net)
        with pytest.raises(ValueError, match="has step 1, so step 0 would not be written"):
            checkpoints.save(0, model=net)
        with pytest.raises(FileNotFoundError, match="2"):
            checkpoints.load(2, model=net)
        checkpoints.load(model=net)
        with pytest.raises(fnn.CheckpointError, match="no part 'average'"):
            checkpoints.load(average=net)
        wide = nn.Linear(3, 1)
        before = values(wide, optimizer)
        with pytest.raises(RuntimeError, match=r"(?s)Unexpected.*empty.*size mismatch for weight"):
            checkpoints.load(optimizer=optimizer, model=wide)
        assert values(wide, optimizer) == before


SEVERAL_DEVICES = """
import sys
import fnn, jax, jax.numpy as jnp, numpy as np, optax, orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec as P

folder = sys.argv[1]
mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
by_rows, whole = NamedSharding(mesh, P("d")), NamedSharding(mesh, P())

def make(sharding):
    net = fnn.nn.Linear(8, 8).to(sharding)
    return net, fnn.optim.Optimizer(net, optax.adam(1e-3))

def held(net, optimizer):
    return [np.asarray(value) for value in (*net.state_dict().values(), *optimizer.state_dict().values())]

net, optimizer = make(by_rows)
loss = fnn.backward(lambda net: (net(jnp.ones((2, 8))) ** 2).sum(), net)
optimizer.step()
expected = held(net, optimizer)
with fnn.CheckpointManager(folder + "/run") as checkpoints:
    checkpoints.save(0, model=net, optimizer=optimizer)
    fnn.save_checkpoint(folder + "/file.pt", model=net, optimizer=optimizer)
    from_orbax = lambda **parts: checkpoints.load(0, **parts)
    from_file = lambda **parts: fnn.load_checkpoint(folder + "/file.pt", **parts)
    for sharding in (by_rows, whole, jax.devices()[2]):
        for load in (from_orbax, from_file):
            other, other_optimizer = make(sharding)
            places = [cell.value.sharding for cell in other_optimizer._cells()]
            load(model=other, optimizer=other_optimizer)
            assert [cell.value.sharding for cell in other_optimizer._cells()] == places
            assert all(map(np.array_equal, held(other, other_optimizer), expected))
    undrawn = fnn.nn.Linear(8, 8)
    checkpoints.load(0, model=undrawn)
    assert np.array_equal(undrawn.weight, net.weight)

# The trees of pure functions are what orbax takes as they are.
params, state = fnn.split(net)
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder + "/params", params)
    checkpointer.wait_until_finished()
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
    restored = checkpointer.restore(folder + "/params", like)
    alone = checkpointer.restore(folder + "/run/0/default")
assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b) and a.sharding == b.sharding, restored, params))
assert np.array_equal(alone["model"]["weight"], params["weight"])
"""


def test_sharded_values_are_restored_into_shardings(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-c", SEVERAL_DEVICES, str(tmp_path)]
    run = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_orbax_is_asked_for_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match="pip install orbax-checkpoint"):
        fnn.CheckpointManager(tmp_path)


def test_training_that_donates_leaves_alone_what_is_being_written(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    net = nn.Linear(1000, 1000, bias=False)

    def add():
        net.weight.value = net.weight.value + 1.0

    step = fnn.jit(add, donate=True)

    expected = []
    with fnn.CheckpointManager(tmp_path) as checkpoints:
        for i in range(3):
            expected.append(np.array(net.weight))
            checkpoints.save(i, model=net)
            step()
            step()
        for i in range(3):
            checkpoints.load(i, model=net)
            assert np.array_equal(net.weight, expected[i])


if __name__ == "__main__":
    resume(*sys.argv[1:])
