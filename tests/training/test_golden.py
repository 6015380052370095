"""Settings of old draw the same schedules, to the bit, and train the same weights.

`golden.json` holds what they drew and learnt when it was written; `tests/support/golden.py` says
when it may be written again, and how. The schedule is compared exactly, because its streams are
numpy's. Losses and gradient norms are compared to a relative 1e-4, because floats differ between
processors in their last bits; another dropout mask, learning rate, loss or rule of an optimizer
changes them by far more within the few steps of these runs.
"""

import pytest

from mtdnn.machine.files import read_json
from tests.support import golden


@pytest.fixture(scope="module", params=golden.RUNS)
def both(request, tmp_path_factory):
    """What a run gives now, and what it gave."""
    now = golden.measure(tmp_path_factory.mktemp("golden"), request.param)
    return now, read_json(golden.FILE)["runs"][request.param]


def test_the_schedule_is_the_same_to_the_bit(both):
    now, then = both
    assert now["schedule"] == then["schedule"]


def test_the_schedule_of_the_control_is_the_same_to_the_bit():
    assert golden.control() == read_json(golden.FILE)["control"]


def test_losses_and_gradients_are_the_same(both):
    now, then = both
    assert len(now["steps"]) == len(then["steps"])
    for step, (one, other) in enumerate(zip(now["steps"], then["steps"], strict=True)):
        assert one == pytest.approx(other, rel=1e-4), step
