"""Commands for tables, figures and pages: the named ones, or all."""

import pytest

from mtdnn.cli.main import main
from mtdnn.config.loading import load
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.reporting import products
from mtdnn.statistics import records
from tests.support.factories import make_experiment


@pytest.fixture
def file(tmp_path):
    """The YAML file of an experiment with three tables and two figures."""
    path = tmp_path / "experiment.yaml"
    path.write_text(dump_yaml(make_experiment(tmp_path)), encoding="utf-8")
    return str(path)


@pytest.fixture
def written(monkeypatch) -> list[tuple[str, ...]]:
    """What would be written: the function and its names."""
    calls: list[tuple[str, ...]] = []

    def note(name):
        return lambda _, *names: calls.append((name, *(n for ns in names for n in as_list(ns))))

    def as_list(names):
        return [names] if isinstance(names, str) else list(names)

    for name in ("table", "figure", "page", "comparisons"):
        monkeypatch.setattr(products, f"write_{name}", note(name))
    monkeypatch.setattr(records, "write", note("statistics"))
    monkeypatch.setattr(records, "collect", note("collect"))
    return calls


def test_the_summary_says_where_it_is(file, monkeypatch, capsys):
    monkeypatch.setattr(products, "write_summary", lambda _: None)
    assert main(["summary", file]) == 0
    assert capsys.readouterr().err == f"mtdnn: {load(file).layout.summary}: written\n"


@pytest.mark.parametrize("command", ["table", "figure", "page", "statistics"])
def test_an_unknown_name_gets_a_message_with_the_known_ones(file, written, capsys, command):
    assert main([command, file, "other"]) == 2
    error = capsys.readouterr().err
    assert "'other'; known are " in error and ("table1" in error or "figure3" in error)
    assert written == []


def test_one_or_all(file, written):
    assert main(["table", file, "table2"]) == 0
    assert written == [("table", "table2")]
    written.clear()
    assert main(["table", file]) == 0
    assert written == [("table", f"table{number}") for number in (1, 2, 3)]
    written.clear()
    assert main(["figure", file]) == 0
    assert {name for _, name in written} == {"figure3", "figure4", *products.FIGURES}
    written.clear()
    assert main(["page", file]) == 0
    assert {name for _, name in written} == {"table1", "table2", "table3", *products.PAGES}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["table2"], [("statistics", "table2"), ("comparisons", "table2")]),
        (["--collect"], [("collect",)]),
        (
            [],
            [
                ("statistics", "table1", "table2", "table3"),
                *(("comparisons", f"table{number}") for number in (1, 2, 3)),
                ("collect",),
            ],
        ),
    ],
)
def test_statistics_are_computed_and_collected(file, written, options, expected):
    assert main(["statistics", file, *options]) == 0
    assert written == expected
