"""PyTorch's test databases, a part of them other ones each day: `python -m conformance` runs them whole."""

import datetime

import pytest
from conformance.cases import cases, entries, middle
from conformance.check import check, check_dtypes, check_transformations

DAY = datetime.datetime.now(datetime.UTC).toordinal()


@pytest.mark.parametrize("entry", list(entries())[DAY % 4 :: 4])
def test_a_sample_and_an_error_input(entry):
    every = list(cases(entry))
    for chosen in ([case for case in every if not case.refused], [case for case in every if case.refused]):
        if chosen:
            case = chosen[DAY * 7919 % len(chosen)]
            assert check(case).startswith(("passed", "refused", "differs")), f"python -m conformance {case.name}"


@pytest.mark.parametrize("measure", [check_transformations, check_dtypes])
@pytest.mark.parametrize("entry", list(entries())[DAY % 32 :: 32])
def test_transformations_and_dtypes(entry, measure):
    (case,) = middle(entry)
    assert measure(case).startswith(("passed", "differs")), f"python -m conformance {case.name}"
