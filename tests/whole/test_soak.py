"""The short form of the soak test; `python -m tests.soak` is the long one."""

import pytest

from tests.support.soak import MOMENTS, soak


@pytest.mark.patient
@pytest.mark.slow
def test_a_training_that_is_killed_at_any_moment_ends_as_undisturbed(tmp_path):
    counts = soak(tmp_path, kills=3, rows=200, seed=3)
    assert {key.split(" ", 1)[1] for key in counts if key.startswith("SIG")} == set(MOMENTS)
