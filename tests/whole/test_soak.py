"""The short form of the soak test; `python -m tests.support.soak` is the long one."""

import pytest

from tests.support.soak import MOMENTS, soak


@pytest.mark.patient
@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_like_an_undisturbed_one(tmp_path):
    counts = soak(tmp_path, kills=3, rows=200, seed=3)
    assert {key.split(" ", 1)[1] for key in counts if key.startswith("SIG")} == set(MOMENTS)
