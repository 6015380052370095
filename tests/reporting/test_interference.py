"""Interference: the auxiliary corpora's own scores, for each kind of run."""

from mtdnn.config.layout import RunFolder, RunId
from mtdnn.machine.files import read_json
from mtdnn.reporting import interference, products
from tests.support.factories import make_experiment, make_run


def test_the_tables_hold_the_scores_of_the_runs(unfinished):
    products.write_interference(unfinished)
    kinds = interference.kinds(unfinished)
    assert len(kinds) == len({kind.run.row_path for kind in kinds}) == 9
    frame = interference.frame(unfinished, kinds)
    assert len(frame) == 4 + 4 + 4 + 4 + 1 + 3 + 4  # auxiliary corpora of the mixtures
    for record in frame.to_dict("records"):
        run = RunId(record["encoder"], record["mixture"], record["weight"], "default", 1)
        metrics = read_json(RunFolder(unfinished.layout.run(run)).metrics)["auxiliary"]
        assert record["accuracy"] == metrics[record["corpus"]]["accuracy"]
    text = unfinished.layout.table("interference", "md").read_text()
    assert "81.50" in text and "train failed" in text
    tex = unfinished.layout.table("interference", "tex").read_text()
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")


def test_auxiliary_corpora_are_found_wherever_the_mixture_lists_them(tmp_path):
    mixtures = {"mixed": {"label": "Mixed", "corpora": ["cola", "squad", "swag"]}}
    rows = [{"encoder": "base", "mixture": "mixed", "weight": 0.8}]
    tables = {"table1": {"title": "Mixed", "rows": rows}}
    experiment = make_experiment(tmp_path, mixtures=mixtures, tables=tables, figures={})
    make_run(experiment, experiment.runs()[0])
    frame = interference.frame(experiment, interference.kinds(experiment))
    assert list(frame.corpus) == ["cola", "swag"]
    assert interference.auxiliary(experiment) == ["swag", "cola"]
