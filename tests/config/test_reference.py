"""The reference of settings: complete, and equal to that in the documentation."""

from pathlib import Path

from mtdnn.config.experiment import Experiment
from mtdnn.config.reference import DESCRIBED, ledger, reference

README = Path(__file__).parents[2] / "config" / "README.md"


def test_the_readme_contains_what_the_command_prints():
    text = README.read_text(encoding="utf-8").split("<!-- mtdnn settings -->\n")[1]
    assert text == f"{ledger()}\n{reference()}", (
        "config/README.md is outdated: replace all after its marker with `mtdnn settings`"
    )


def test_every_part_of_an_experiment_that_affects_results_is_described():
    models = {
        f.annotation
        for f in Experiment.model_fields.values()
        if f.annotation in set(DESCRIBED.values())
    }
    assert models == set(DESCRIBED.values())


def test_every_setting_has_a_meaning_and_an_origin():
    for model in DESCRIBED.values():
        for name, field in model.model_fields.items():
            assert field.description, name
            assert field.json_schema_extra["origin"] in {"paper", "code", "reading", "ours"}, name


def test_defaults_are_those_of_the_paper():
    table = ledger()
    for row in (
        "| `batch_size` | `16` | paper |",
        "| `epochs` | `2` | paper |",
        "| `learning_rate` | `3e-05` | paper |",
        "| `warmup` | `0.1` | paper |",
        "| `head_dropout` | `0.3` | paper |",
        "| `max_length` | `384` | paper |",
        "| `max_question_length` | `64` | paper |",
        "| `span_loss` | `sum` | paper |",
        "| `stride_rule` | `advance` | code |",
        "| `dry` | `refill` | reading |",
    ):
        assert row in table
