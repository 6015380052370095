"""A taste of every fuzz target; `python -m tests.fuzz` is the meal."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.targets import TARGETS, judge


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_makes_a_reader_fall(name):
    target, inputs, _ = TARGETS[name]

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(inputs)
    def test(value):
        judge(target, value)

    test()
