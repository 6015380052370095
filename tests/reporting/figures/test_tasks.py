"""The figure of tasks: what its axes show, and what it says of missing runs."""

from mtdnn.config.layout import RunFolder
from mtdnn.machine.files import read_json, write_json
from mtdnn.reporting.figures import tasks
from tests.support.factories import make_experiment, make_run
from tests.support.targets import make_targets


def test_no_axis_goes_beyond_100_percent(tmp_path):
    experiment = make_targets(tmp_path, {"t": [("squad", []), ("squad", ["mnli"])]})
    for run in experiment.runs():
        metrics = RunFolder(experiment.layout.run(run)).metrics
        content = read_json(metrics)
        for scores in content["auxiliary"].values():
            scores["accuracy"] = 99.0 + 0.5 * run.seed - 0.5
        write_json(metrics, content)
    (panel,) = [
        axes for axes in tasks.draw(experiment).subfigs[0].axes if axes.get_title() == "MNLI"
    ]
    low, high = panel.get_xlim()
    assert low < 34 < 100 < high <= 101  # a third are right by chance
    assert not [tick for tick in panel.get_xticks() if 100 < tick <= high]
    assert not any(line.get_clip_on() for line in panel.lines if line.get_marker() != "None")


def test_what_several_kinds_of_runs_lack_is_said_once(tmp_path):
    experiment = make_experiment(tmp_path, seeds=[1, 2])
    first, *_ = experiment.runs()
    make_run(experiment, first)
    note = " ".join(tasks.draw(experiment).subfigs[1].texts[0].get_text().split())
    assert note.count("not run") == 1
    assert f"Not drawn: {experiment.run_label(first)}, seed 2; " in note
