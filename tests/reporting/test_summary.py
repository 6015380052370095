"""The summary: every number has a source, and its LaTeX is complete."""

import re

import pytest

from mtdnn.config.layout import RunFolder
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json, write_json
from mtdnn.reporting import products, tables
from mtdnn.reporting.escaping import markdown
from tests.support.factories import make_experiment, make_run, make_statistics

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]|\.\d)")


def numbers_of(value):
    """Every number in a JSON value, including those in its texts."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return {number for each in value for number in numbers_of(each)}
    if isinstance(value, str):
        return {float(number) for number in re.findall(r"\d+(?:\.\d+)?", value)}
    return {abs(value)} if isinstance(value, int | float) else set()


def unfound(text, known):
    """The numbers of a text that are not a known number after rounding."""
    return [
        shown
        for shown in NUMBER.findall(text)
        if not any(
            f"{number:.{len(shown.partition('.')[2])}f}" == shown or f"{number:g}" == shown
            for number in known
        )
    ]


@pytest.fixture
def experiment(tmp_path):
    experiment = make_experiment(tmp_path, seeds=[11, 12, 13])
    for number, run in enumerate(experiment.runs()):
        make_run(experiment, run, em=60 + number / 7)
    return experiment


def test_every_number_of_the_summary_has_its_source(experiment):
    statistics = make_statistics(experiment)
    products.write_summary(experiment)
    text = experiment.layout.summary.read_text(encoding="utf-8")
    known = numbers_of(statistics)
    for run in experiment.runs():
        metrics = read_json(RunFolder(experiment.layout.run(run)).metrics)
        known |= numbers_of(metrics)
    assert unfound(text, known) == []
    assert len(NUMBER.findall(text)) > 100
    # A number without a source would be found.
    assert unfound(f"{text} 73.4519", known) == ["73.4519"]

    for table in statistics["tables"].values():
        for each in table["comparisons"]:
            line = next(
                line
                for line in text.splitlines()
                if line.startswith(f"| {each['to_label']} − ")
                and f"{abs(each['measures']['em']['difference']):.2f}" in line
            )
            assert each["verdict"]["em"] in line
            assert f"{abs(each['measures']['em']['low']):.2f}" in line


def test_latex_of_the_summary_is_balanced_and_complete(
    experiment, classified, mixed, scored_and_tagged
):
    make_statistics(experiment)
    products.write_summary(experiment)
    for each in (experiment, classified, mixed, scored_and_tagged):
        check_latex(each)


def check_latex(experiment):
    text = experiment.layout.summary.read_text(encoding="utf-8")
    blocks = re.findall(r"```latex\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == len(experiment.tables)
    for block in blocks:
        plain = re.sub(r"\\[{}%&#_$]", "", block)
        assert plain.count("{") == plain.count("}")
        assert block.count(r"\begin{") == block.count(r"\end{")
        for body in re.findall(r"\\begin\{tabular\}\{(.*)\}\n(.*?)\\end", block, re.DOTALL):
            columns = len(re.findall(r"(?<![a-z])[lrSp](?![a-z])", body[0]))
            for line in body[1].splitlines():
                if line.endswith(r" \\"):
                    assert len(re.findall(r"(?<!\\)&", line)) == columns - 1, line
        assert block.isascii() or not re.findall(r"[±−Δ–]", block)


def test_without_statistics_the_summary_says_what_is_missing(experiment):
    with pytest.raises(MtdnnError, match=r"statistics\.json: no such file; run mtdnn statistics"):
        products.write_summary(experiment)
    statistics = make_statistics(experiment)
    del statistics["tables"]["table2"]  # a table that is new in the YAML file
    write_json(experiment.layout.all_statistics, statistics)
    with pytest.raises(MtdnnError, match=r"statistics\.json: lacks table2; run mtdnn statistics"):
        products.write_summary(experiment)


@pytest.mark.parametrize("name", ["classified", "mixed", "scored_and_tagged"])
def test_the_summary_has_the_measures_of_each_target(request, name):
    experiment = request.getfixturevalue(name)
    text = experiment.layout.summary.read_text(encoding="utf-8")
    statistics = read_json(experiment.layout.all_statistics)
    for table in statistics["tables"].values():
        for each in table["comparisons"]:
            for column, numbers in each["measures"].items():
                assert f"| Δ {each['labels'][column]} | interval | p (Holm) |" in text
                assert f" {tables.signed(numbers['difference'])} |" in text
    for row in statistics["cells"].values():
        for column, cell in row["dev"].items():
            assert f"{cell['mean']:.2f} ± {cell['deviation']:.2f}" in text, column


def test_columns_say_where_rows_are_scored_and_at_which_threshold(experiment, mixed, classified):
    make_statistics(experiment)
    products.write_summary(experiment)
    text = experiment.layout.summary.read_text(encoding="utf-8")
    assert "| | scored on | seeds | EM | F1 |" in text
    assert "| difference | scored on | null threshold | Δ EM |" in text
    assert "| paper dev | configured |" in text and "| zero |" not in text
    assert "Scored on paper dev; Null threshold configured" in text  # in LaTeX
    assert "null threshold" not in classified.layout.summary.read_text(encoding="utf-8").lower()
    page = mixed.layout.page("targets").read_text(encoding="utf-8")
    assert "<th>scored on</th><th>null threshold</th>" in page
    assert "<td>configured</td>" in page and "<td>zero</td>" not in page


def test_no_p_value_is_shown_as_zero(experiment):
    statistics = make_statistics(experiment)
    for table in statistics["tables"].values():
        for each in table["comparisons"]:
            each["measures"]["em"]["p_holm"] = 1e-5
    write_json(experiment.layout.all_statistics, statistics)
    products.write_summary(experiment)
    text = experiment.layout.summary.read_text(encoding="utf-8")
    assert r"| \< 0.001 |" in text and "| 0.000 |" not in text


def test_the_summary_begins_with_the_conclusion(experiment):
    statistics = make_statistics(experiment)
    products.write_summary(experiment)
    first = experiment.layout.summary.read_text(encoding="utf-8").split("\n\n")[1]
    lines = first.splitlines()
    assert len(lines) == len(experiment.tables)
    for line, (name, table) in zip(lines, experiment.tables.items(), strict=True):
        assert line.startswith(f"- {table.title}: ")
        for each in statistics["tables"][name]["comparisons"]:
            assert markdown(each["to_label"]) in line
