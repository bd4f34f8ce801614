"""Each entry of PyTorch's test databases with one sample and one error input, other ones each day."""

import datetime

import pytest
from conformance.cases import cases, entries
from conformance.check import check

DAY = datetime.datetime.now(datetime.UTC).toordinal()


@pytest.mark.parametrize("entry", entries())
def test_the_sample_of_the_day(entry):
    every = list(cases(entry))
    for chosen in ([case for case in every if not case.refused], [case for case in every if case.refused]):
        if chosen:
            case = chosen[DAY * 7919 % len(chosen)]
            assert check(case).startswith(("passed", "refused")), f"python -m conformance {case.name}"
