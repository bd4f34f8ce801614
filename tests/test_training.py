"""A whole model computes and learns the same in torch and in fnn, from the same state_dict."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import assert_close, integers, normal, tensor, torch

import fnn
import fnn.nn
from fnn.tree import unnest

STEPS = 10
IMAGES, CLASSES = normal(STEPS, 16, 1, 12, 12), integers(10, STEPS, 16)
RATE, MOMENTUM, DECAY = 0.1, 0.9, 1e-3


def network(nn):
    """The same class on either library, as a PyTorch user writes it."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
                nn.Conv2d(8, 12, 3, stride=2, padding_mode="reflect", padding=1),
                nn.BatchNorm2d(12, momentum=None),
                nn.GELU(),
            )
            self.pool = nn.AdaptiveAvgPool2d(2)
            self.flatten = nn.Flatten()
            self.dropout = nn.Dropout(p=0.0)
            self.norm = nn.LayerNorm(48)
            self.head = nn.Linear(48, 10)

        def forward(self, x):
            x = self.flatten(self.pool(self.features(x)))
            return self.head(self.norm(self.dropout(x)))

    return Network()


@pytest.fixture
def models():
    torch.manual_seed(0)
    ours, theirs = network(fnn.nn), network(torch.nn)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def assert_same_state(ours, theirs, tolerance):
    for name, value in theirs.state_dict().items():
        assert_close(ours[name], value, tolerance, name)


def train(theirs):
    """Trains the torch model; returns its losses."""
    optimizer = torch.optim.SGD(theirs.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
    loss_of, losses = torch.nn.CrossEntropyLoss(), []
    for x, y in zip(map(tensor, IMAGES), map(tensor, CLASSES), strict=True):
        optimizer.zero_grad()
        loss = loss_of(theirs(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def sgd():
    return optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, MOMENTUM))


def test_prints_and_names_as_torch(models):
    ours, theirs = models
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [(name, tuple(p.shape)) for name, p in ours.named_parameters()] == [
        (name, tuple(p.shape)) for name, p in theirs.named_parameters()
    ]


@pytest.mark.parametrize("training", [True, False])
def test_outputs_loss_and_gradients_are_torchs(models, training):
    ours, theirs = models[0].train(training), models[1].train(training)
    x, y = IMAGES[0], CLASSES[0]
    expected = theirs(tensor(x))
    torch.nn.functional.cross_entropy(expected, tensor(y)).backward()

    def loss_of(net, x):
        out = net(x)
        return fnn.functional.cross_entropy(out, y), out

    (_, out), (gradients, by_input) = fnn.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)(ours, jnp.asarray(x))
    assert_close(out, expected, 1e-4)
    named = unnest(gradients)
    for name, parameter in theirs.named_parameters():
        assert_close(named[name], parameter.grad, 1e-3, name)
    images = tensor(x).requires_grad_()
    torch.nn.functional.cross_entropy(theirs(images), tensor(y)).backward()
    assert_close(by_input, images.grad, 1e-3)


def test_ten_steps_of_the_stateful_face(models):
    ours, theirs = models
    optimizer = fnn.optim.Optimizer(ours, sgd())
    criterion = fnn.nn.CrossEntropyLoss()

    @fnn.jit
    def step(x, y):
        loss, grads = fnn.value_and_grad(lambda net: criterion(net(x), y))(ours)
        optimizer.step(grads)
        return loss

    losses = [step(x, y).item() for x, y in zip(IMAGES, CLASSES, strict=True)]
    np.testing.assert_allclose(losses, train(theirs), rtol=1e-4)
    assert_same_state(ours.state_dict(), theirs, 1e-4)
    assert_close(ours.eval()(IMAGES[0]), theirs.eval()(tensor(IMAGES[0])), 1e-3)


def test_ten_steps_as_a_pytorch_user_writes_them(models):
    ours, theirs = models
    optimizer = fnn.optim.Optimizer(ours, sgd())
    losses = []
    for x, y in zip(IMAGES, CLASSES, strict=True):
        optimizer.zero_grad()
        losses.append(fnn.backward(lambda net, x=x, y=y: fnn.functional.cross_entropy(net(x), y), ours).item())
        optimizer.step()
    np.testing.assert_allclose(losses, train(theirs), rtol=1e-4)
    assert_same_state(ours.state_dict(), theirs, 1e-4)


def test_ten_steps_of_the_functional_face(models):
    ours, theirs = models
    _, apply = fnn.pure(ours)
    params, state = fnn.split(ours)
    transformation = sgd()
    opt_state = transformation.init(params)

    @jax.jit
    def step(params, state, opt_state, x, y):
        def loss_of(params):
            out, new = apply(params, x, state=state, training=True)
            return fnn.functional.cross_entropy(out, y), new

        (loss, state), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = transformation.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, loss

    losses = []
    for x, y in zip(IMAGES, CLASSES, strict=True):
        params, state, opt_state, loss = step(params, state, opt_state, x, y)
        losses.append(loss.item())
    np.testing.assert_allclose(losses, train(theirs), rtol=1e-4)
    assert_same_state({**unnest(params), **unnest(state)}, theirs, 1e-4)


def test_a_trained_model_goes_back_to_torch(models):
    ours, theirs = models
    train(theirs)
    ours.load_state_dict(theirs.state_dict())
    again = network(torch.nn)
    again.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in ours.state_dict().items()})
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
