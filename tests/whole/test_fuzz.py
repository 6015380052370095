"""A few cases of every fuzz target; `python -m tests.fuzz` runs many."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.targets import TARGETS, judge


@pytest.mark.parametrize("name", TARGETS)
def test_readers_accept_or_refuse_any_input(name):
    target, inputs, _ = TARGETS[name]

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(inputs)
    def test(value):
        judge(target, value)

    test()
