"""Pages of the report: they need no other file, escape what they show, and explain gaps."""

import re

from mtdnn.config.layout import RunFolder
from mtdnn.evaluation.results import read_rows
from mtdnn.machine.files import read_json, write_text
from mtdnn.reporting import comparisons, pages, products
from mtdnn.reporting.facts import compare_link
from tests.support.factories import make_experiment, make_run, make_statistics


def read(experiment, page):
    return experiment.layout.page(page).read_text(encoding="utf-8")


def test_every_built_in_page_can_be_written():
    assert set(pages.BUILT_IN) == set(products.PAGES)


def test_pages_load_nothing_and_run_no_script_from_a_label(unfinished):
    for page in [*unfinished.tables, *products.PAGES]:
        text = read(unfinished, page)
        assert text.count("<script") == text.count("</script") == 1, page
        assert "<img" not in text and "<link" not in text and "@import" not in text
        assert not re.findall(r'(?:src|href)="(?!http://127\.0\.0\.1:5000/#/)', text)


def test_every_score_is_shown_with_its_link(unfinished):
    text = read(unfinished, "table1")
    for row in read_rows(unfinished, "table1"):
        assert f"{row.score('paper_dev', 'exact').mean:.2f} ± " in text
        logged = [read_json(RunFolder(result.folder).logged) for result in row.present]
        first, second = (each["run_id"] for each in logged)
        link = compare_link(unfinished, row.present)
        assert link.endswith(f"runs=[%22{first}%22,%22{second}%22]&experiments=[%227%22]")
        assert link.replace("&", "&amp;") in text
    assert "/#/experiments/7/runs/" in read(unfinished, "table3")


def test_a_failed_run_is_shown_with_its_reason(unfinished):
    for page in ("table2", "runs", "interference"):
        text = read(unfinished, page)
        assert "train failed: killed &lt;/script&gt;&lt;img" in text, page
    assert "not run" in read(unfinished, "runs")


def test_the_runs_page_names_each_run_without_its_seed(unfinished):
    text = read(unfinished, "runs")
    for run in unfinished.runs():
        assert run.row_path in text and run.path not in text.split("<footer>")[0]


def test_the_runs_page_shows_what_jobs_took(unfinished):
    first, second, *_ = unfinished.runs()
    header = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    for run, step, row in (
        (first, "train", "90.0\t0:01:30\t795.6\t1\t1\t1\t0\t0\t80.0\t72.0\n"),
        (second, "evaluate", "0.3\t0:00:00\t-\t-\t-\t-\t-\t-\t-\t-\n"),
    ):
        write_text(unfinished.layout.benchmark(step, run.path), header + row)
    pages.write_page(unfinished, "runs")
    text = read(unfinished, "runs").split("Time and memory</h2>")[1].split("</table>")[0]
    rows = [re.findall(r'<td class="n">(.*?)</td>', row) for row in text.split("<tr>")[2:]]
    assert rows == [
        [str(first.seed), "1.5", "1.2", "796", "–", "–", "–"],
        [str(second.seed), "–", "–", "–", "0.0", "–", "–"],
    ]


def test_settings_have_a_value_a_default_and_an_origin(unfinished):
    text = read(unfinished, "settings")
    row = r"<code>learning_rate</code></td><td>3e-05</td>\s*<td>3e-05</td><td>paper</td>"
    assert re.search(row, text)


def test_differences_are_on_the_page_of_their_table(tmp_path):
    experiment = make_experiment(tmp_path, seeds=[11, 12, 13])
    for number, run in enumerate(experiment.runs()):
        make_run(experiment, run, em=60 + number / 7)
    statistics = make_statistics(experiment)
    products.write_page(experiment, "table2")
    text = read(experiment, "table2")
    for each in statistics["tables"]["table2"]["comparisons"]:
        word = each["verdict"]["em"]
        assert f'<span class="verdict {word.replace(" ", "-")}">{word}</span>' in text
        assert f"{abs(each['measures']['em']['difference']):.2f}" in text
        assert each["verdict"]["text"] in text


def test_pages_of_other_families_have_their_measures_and_words(classified, mixed):
    text = read(classified, "nli")
    assert ">Δ Acc.</th>" in text and ">conclusion</th>" in text
    assert "between clusters of items" in text
    assert not re.findall("question|paragraph|threshold|EM<", text.split("<body>")[1])
    reason = "No run of this experiment has question answering as its target."
    assert reason in read(classified, "cases") and reason not in read(mixed, "cases")
    headings = re.findall(r'<th class="n">(\w+\.?)</th>', read(mixed, "runs"))
    assert headings[:6] == ["seed", "EM", "F1", "Acc.", "Matthews", "steps"]
    assert '<th class="n">test rows</th>' in read(classified, "runs")
    assert "test rows" not in read(mixed, "runs")


def test_one_seed_compares_models_and_several_compare_methods(tmp_path):
    methods = "differences are between training methods, not between single models"
    for seeds, said in (([1], False), ([1, 2], True)):
        experiment = make_experiment(tmp_path / str(len(seeds)), seeds=seeds)
        make_statistics(experiment)
        products.write_page(experiment, "table2")
        products.write_summary(experiment)
        summary = experiment.layout.summary.read_text(encoding="utf-8")
        for text in (read(experiment, "table2"), summary.replace("Dif", "dif")):
            assert (methods in text) == said
            assert ("differences are between single models" in text) != said
        over = comparisons.explanation(read_rows(experiment, "table2"))
        assert ("over seeds" in over) == said
