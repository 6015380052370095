"""How much is measured within a share of the training time."""

from mtdnn.config.settings import InterferenceSettings
from mtdnn.training.budget import Load, plan


def test_a_long_run_measures_all_and_a_short_one_stays_within_its_share():
    settings = InterferenceSettings()
    long = {"qa": Load(15_000, 16, 180.0), "sc": Load(5_000, 16, 20.0)}
    planned = plan(settings, long, 2)
    assert (planned.measurements, planned.dev_items) == (20, 256)
    assert planned.share < 0.01
    for steps in (1, 10, 100, 1000):
        short = {"qa": Load(steps, 16, 180.0), "sc": Load(steps, 16, 20.0)}
        planned = plan(settings, short, 2)
        assert planned.share <= settings.max_share
        assert planned.measurements < 20 or steps > 100
    assert plan(settings, {"qa": long["qa"]}, 2).measurements == 0
    assert plan(settings, {"qa": Load(0, 16, 0.0)}, 2).share == 0
