"""Eager calls are compiled, and nobody can tell but by the time they take."""

import math
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
import fnn.nn as nn
from fnn import eager
from fnn import functional as F
from fnn.eager import compiled, warn
from fnn.functional.checks import array, checked, known
from fnn.random import next_key
from fnn.scope import Scope, write


@pytest.fixture
def counted():
    """Makes a function compiled; returns it with the list of its runs, each of which is a trace or a plain call."""

    def count(function):
        runs = []

        def counting(*args, **options):
            runs.append(args)
            return function(*args, **options)

        return compiled(counting), runs

    return count


def test_a_function_runs_once_for_each_shape_and_dtype(counted):
    double, runs = counted(lambda x: x * 2)
    for x in (jnp.ones(3), jnp.zeros(3), jnp.ones(4), jnp.ones(3, jnp.int32), jnp.ones(4)):
        np.testing.assert_array_equal(double(x), x * 2)
    assert len(runs) == 3


def test_values_of_what_is_no_array_are_told_apart_with_their_types(counted):
    def times(x, factor):
        if isinstance(factor, bool):
            raise TypeError("bool")
        return x * factor, jnp.copysign(x, factor)

    times, runs = counted(times)
    x = jnp.ones(2)
    assert times(x, 0.0)[1].tolist() == [1, 1]
    assert times(x, -0.0)[1].tolist() == [-1, -1]
    assert times(jnp.ones(2, jnp.int32), 1)[0].dtype == jnp.int32
    assert times(jnp.ones(2, jnp.int32), 1.0)[0].dtype == jnp.float32
    with pytest.raises(TypeError, match="bool"):
        times(x, True)
    assert np.isnan(times(x, math.nan)[0]).all()
    before = len(runs)
    times(x, 0.0), times(x, -0.0), times(x, math.nan)
    assert len(runs) == before


def test_numbers_that_change_at_each_call_are_not_compiled_again_and_again(counted):
    times, runs = counted(lambda x, factor: x * factor)
    for i in range(100):
        assert times(jnp.ones(()), i / 7).item() == pytest.approx(i / 7)
    assert sum(isinstance(x, jax.core.Tracer) for x, _ in runs) < 20


def test_forms_are_let_go_of_when_there_are_too_many(counted, monkeypatch):
    monkeypatch.setattr(eager, "_FORMS", 4)
    take, runs = counted(lambda x, index: x[index])
    for index in (*range(6), 5, 0):
        assert take(jnp.arange(6), index).item() == index
    assert [index for _, index in runs] == [0, 1, 2, 3, 4, 5, 0]


def test_traced_operands_leave_nothing_of_it_in_the_program():
    x, w = jnp.ones((2, 3)), jnp.ones((4, 3))
    F.linear(x, w)
    assert str(jax.make_jaxpr(F.linear)(x, w)) == str(jax.make_jaxpr(F.linear.__wrapped__)(x, w))
    assert "jit" not in str(jax.make_jaxpr(F.linear)(x, w))


def test_operands_are_arrays_parameters_numpy_arrays_and_lists_of_them(counted):
    total, runs = counted(lambda xs, scale, by=None: sum(array(x, "x") for x in xs) * array(scale, "scale") + by)
    p = nn.Parameter(jnp.ones(2))
    for factor in (1.0, 2.0):
        p.data = jnp.full(2, factor)
        assert total([jnp.ones(2), p], np.full(2, 2.0, np.float32), by=jnp.ones(2)).tolist() == [2 * (1 + factor) + 1] * 2
    assert len(runs) == 1


def test_parameters_are_read_where_the_call_is():
    linear = nn.Linear(2, 1, bias=False)
    x, other = jnp.ones(2), nn.Linear(2, 1, bias=False)
    for layer in (linear, other):
        np.testing.assert_allclose(layer(x), layer.weight.value @ x, rtol=1e-6)
    linear.weight.data = jnp.full((1, 2), 3.0)
    assert linear(x).item() == 6
    with fnn.bound(linear, {"weight": jnp.full((1, 2), 4.0)}):
        assert linear(x).item() == 8
    with Scope({linear.weight: jnp.full((1, 2), 5.0)}):
        assert F.linear(x, linear.weight).item() == 10


def test_code_that_jax_stages_in_a_module_sees_new_values_though_no_operand_is_traced():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 1, bias=False)
            self.constant = jax.jit(lambda: F.linear(jnp.ones(2), self.linear.weight))

        def forward(self, x):
            return x + self.constant()

    net = Constant()
    for value in (1.0, 2.0):
        net.linear.weight.data = jnp.full((1, 2), value)
        assert net(jnp.zeros(1)).item() == 2 * value


def test_what_is_written_goes_to_the_argument_that_was_given(counted):
    def count(x, cell):
        write(cell, cell.value + x)
        return x

    count, runs = counted(count)
    first, second = nn.Buffer(jnp.zeros(())), nn.Buffer(jnp.zeros(()))
    for _ in range(3):
        count(jnp.ones(()), first)
    count(jnp.full((), 5.0, jnp.float32), second)
    assert (first.item(), second.item(), len(runs)) == (3, 5, 1)
    with Scope() as scope:
        count(jnp.ones(()), first)
    assert scope.written[first].item() == 4
    assert first.item() == 3


def test_running_statistics_are_those_of_plain_calls():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 3, 4)), jnp.float32)
    a, b = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    for _ in range(3):
        y = a(x)
        with jax.disable_jit():
            expected = b(x)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    np.testing.assert_allclose(a.running_var.value, b.running_var.value, rtol=1e-6)


def test_random_numbers_are_those_of_plain_calls(counted):
    def noisy(x, twice):
        y = x + jax.random.normal(next_key(), x.shape)
        return y + jax.random.normal(next_key(), x.shape) if twice else y

    compiled_noisy, _ = counted(noisy)
    x = jnp.ones(3)
    for source in (lambda: fnn.rng(0), lambda: fnn.rng(jax.random.key(3))):
        results = []
        for function in (compiled_noisy, noisy):
            with source():
                results.append([function(x, twice) for twice in (False, True, False, True)])
        np.testing.assert_allclose(*results, rtol=1e-5)
    states = []
    for function in (compiled_noisy, noisy):
        fnn.manual_seed(5)
        y = [function(x, True) for _ in range(3)]
        states.append((np.asarray(y).round(4).tolist(), fnn.random.default_generator.get_state()))
    assert states[0] == states[1]
    assert len({tuple(row) for row in states[0][0]}) == 3
    traced = [jax.jit(lambda key, f=f: _with_key(f, key, x))(jax.random.key(1)) for f in (compiled_noisy, noisy)]
    np.testing.assert_allclose(*traced, rtol=1e-5)


def _with_key(function, key, x):
    with fnn.rng(key):
        return function(x, False)


def test_values_are_checked_at_each_call(counted):
    def positive(x):
        def check(values):
            if (values < 0).any():
                raise ValueError("negative")

        checked(x, check)
        return x * 2

    positive, runs = counted(positive)
    for _ in range(3):
        positive(jnp.ones(2))
    assert len(runs) == 1
    with pytest.raises(ValueError, match="negative"):
        positive(-jnp.ones(2))
    positive(jnp.ones(2))
    table = jnp.ones((3, 2))
    F.embedding(jnp.array([0, 2]), table)
    with pytest.raises(IndexError):
        F.embedding(jnp.array([0, 3]), table)
    with pytest.raises(IndexError):
        F.embedding(jnp.array([0, 2]), table[:2])


def test_wrong_values_are_refused_before_anything_is_compiled(caplog):
    wrong, right, table = jnp.array([0, 11, 4]), jnp.array([0, 10, 4]), jnp.ones((11, 13))
    with jax.log_compiles():
        with pytest.raises(IndexError, match="from 0 to 11 for 11 rows"):
            F.embedding(wrong, table)
        assert "compilation" not in caplog.text
        F.embedding(right, table)
        assert "compilation" in caplog.text


def test_a_function_that_looks_at_values_is_called_as_it_is(counted):
    def first(x):
        values = known(x)
        return x[:1] if values is not None and values[0] > 0 else -x[:1]

    first, runs = counted(first)
    assert [first(jnp.array([v, 1.0])).item() for v in (2.0, -3.0, 4.0)] == [2, 3, 4]
    assert not isinstance(runs[-1][0], jax.core.Tracer)


def test_errors_are_those_of_the_function_itself():
    weight = jnp.ones((2, 3))
    F.linear(jnp.ones(3), weight)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
            F.linear(jnp.ones(4), weight)
        assert caught.value.__context__ is None
        assert not getattr(caught.value, "__notes__", None)
    assert F.linear(jnp.ones(3), weight).shape == (2,)


def test_warnings_come_at_each_call_and_name_the_caller(counted):
    def warning(x):
        warn("careful", stacklevel=2)
        return x

    warning, _ = counted(warning)
    for _ in range(3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warning(jnp.ones(2))
            F.l1_loss(jnp.ones(2), jnp.ones(2), reduce=True)
        assert [str(w.message)[:7] for w in caught] == ["careful", "size_av"]
        assert caught[1].filename == __file__


def test_settings_of_jax_and_of_ours_are_told_apart():
    x, w = jnp.ones((2, 3)), jnp.ones((4, 3))
    assert F.linear(x, w).dtype == jnp.float32
    with fnn.autocast(dtype=jnp.bfloat16):
        assert F.linear(x, w).dtype == jnp.bfloat16
    assert F.linear(x, w).dtype == jnp.float32
    with jax.enable_x64(True):
        assert F.linear(jnp.ones((2, 3), jnp.float64), jnp.ones((4, 3), jnp.float64)).dtype == jnp.float64
    with jax.disable_jit():
        np.testing.assert_array_equal(F.linear(x, w), np.full((2, 4), 3))


def test_operands_in_scopes_with_tokens_are_compiled_once(counted):
    double, runs = counted(lambda x: x * 2)
    for _ in range(3):
        with Scope(token=True):
            double(jnp.ones(3))
    assert len(runs) == 1


def test_threads_share_what_is_compiled(counted):
    double, runs = counted(lambda x: x * 2)
    double(jnp.ones(3))
    results = []
    threads = [threading.Thread(target=lambda: results.append(double(jnp.ones(3)).sum().item())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results, len(runs)) == ([6.0] * 4, 1)


def test_an_eager_gradient_is_that_of_the_plain_function():
    x, w = jnp.arange(6.0).reshape(2, 3), jnp.ones((4, 3))
    np.testing.assert_allclose(jax.grad(lambda w: F.linear(x, w).sum())(w), jnp.broadcast_to(x.sum(0), (4, 3)))
