"""The figure of differences shows every row against its baseline."""

import pytest

from mtdnn.reporting.figures import effects
from tests.support.factories import make_experiment, make_statistics


def test_bars_are_the_intervals_and_diamonds_the_published_differences(tmp_path):
    experiment = make_experiment(tmp_path)
    comparisons = make_statistics(experiment)["tables"]["table2"]["comparisons"]
    axes = effects.draw(experiment).subfigs[0].axes[2]  # EM of the second table
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"{each['to_label']} − QA" for each in comparisons]
    for place, each in enumerate(comparisons):
        here = [line for line in axes.lines if set(line.get_ydata()) == {place}]
        bar, mean, diamond = (list(line.get_xdata()) for line in here)
        assert bar == pytest.approx([each["measures"]["em"]["low"], each["measures"]["em"]["high"]])
        assert mean == pytest.approx([each["measures"]["em"]["difference"]])
        assert diamond == pytest.approx([each["published"]["em"]])
