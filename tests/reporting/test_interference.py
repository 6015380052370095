"""Interference: the auxiliary corpora's own scores, for each kind of run."""

import math

from mtdnn.config.layout import RunFolder, RunId
from mtdnn.machine.files import read_json
from mtdnn.reporting import interference, products
from tests.support.factories import make_experiment, make_run
from tests.support.targets import make_targets


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


def test_any_corpus_is_auxiliary_where_it_is_not_the_target(classified):
    assert interference.auxiliary(classified) == ["mnli", "squad", "swag", "cola"]
    targets = interference.targets(classified)
    assert [target.heading for target in targets] == ["MNLI Acc.", "CoLA Matthews"]
    text = classified.layout.table("interference", "md").read_text()
    assert "| Accuracy (%) | MNLI | SWAG | CoLA | MNLI Acc. | CoLA Matthews |" in text
    assert "| EM (%) | SQuAD | MNLI Acc. |\n" in text
    assert "| Matthews correlation (× 100) | CoLA | MNLI Acc. |\n" in text
    kinds = interference.kinds(classified)
    for record in interference.frame(classified, kinds).to_dict("records"):
        run = RunId(record["encoder"], record["mixture"], record["weight"], "default", 1)
        metrics = read_json(RunFolder(classified.layout.run(run)).metrics)["auxiliary"]
        assert set(metrics[record["corpus"]]["measures"]) == {
            {"em": "exact"}.get(name, name)
            for name in ("accuracy", "matthews", "f1", "em")
            if not math.isnan(record[name])
        }


def test_each_measure_has_a_table_of_the_targets_beside_which_it_is_trained(scored_and_tagged):
    text = scored_and_tagged.layout.table("interference", "md").read_text()
    tables = {
        part.split("|")[1].strip(): part.strip().splitlines()
        for part in text.split("\n\n")
        if part.startswith("| ")
    }
    assert {name: table[0].split("|")[2:-1] for name, table in tables.items()} == {
        "Pearson correlation (× 100)": [" STS-B ", " SQuAD F1 ", " WNUT 2017 Entity F1 "],
        "Spearman correlation (× 100)": [" STS-B ", " SQuAD F1 ", " WNUT 2017 Entity F1 "],
        "EM (%)": [" SQuAD ", " STS-B Pearson "],
        "F1 (%)": [" SQuAD ", " MNLI ", " STS-B Pearson ", " WNUT 2017 Entity F1 "],
        "Entity F1 (%)": [" WNUT 2017 ", " SQuAD F1 "],
        "Accuracy by token (%)": [" WNUT 2017 ", " SQuAD F1 "],
        "Accuracy (%)": [" MNLI ", " WNUT 2017 Entity F1 "],
    }
    rows = [line.split("|")[1].strip() for line in tables["Entity F1 (%)"][2:]]
    assert rows == ["SQuAD", "SQuAD+STS-B+WNUT 2017, w 0.8"]
    # 60 of the made-up sentences have one token of four outside entities, 60 have two.
    assert tables["Accuracy by token (%)"][-1] == "| *most frequent label* | 37.50 | |"
    assert tables["Accuracy (%)"][-1] == "| *most frequent label* | 33.33 | |"
    page = scored_and_tagged.layout.page("interference").read_text()
    assert (
        "Accuracy by token (%) of always predicting the most frequent label: WNUT 2017 37.50."
        in page
    )


def test_without_auxiliary_corpora_the_table_says_so(tmp_path):
    experiment = make_targets(tmp_path, {"alone": [("cola", [])]})
    products.write_interference(experiment)
    products.write_page(experiment, "interference")
    sentence = "No run of this experiment has an auxiliary corpus."
    assert sentence in experiment.layout.table("interference", "md").read_text()
    assert sentence in experiment.layout.page("interference").read_text()
