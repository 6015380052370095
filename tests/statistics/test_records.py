"""statistics.json: what it has when runs are missing, that it can be reproduced, what it costs."""

import resource
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtdnn.config.layout import RunFolder, RunId
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_json, write_json
from mtdnn.statistics import records
from tests.support.comparisons import comparison, make_mixtures, make_questions, make_runs
from tests.support.factories import fail_run, make_experiment, make_run


@pytest.fixture
def mixtures(tmp_path):
    return make_mixtures(tmp_path)


def test_missing_runs_leave_comparisons_out_with_the_reason(mixtures):
    make_runs(mixtures, "table2", [0.4, 0.7, 0.41, 0.8])
    for seed in (1, 2, 3):
        run = RunId("base", "qa_mcc", 0.8, "default", seed)
        fail_run(mixtures, run, "train", "no memory left")
    fail_run(mixtures, RunId("base", "qa_sc", 0.8, "default", 2), "evaluate", "no disk")
    folder = mixtures.layout.run(RunId("base", "qa_mcc_sc", 0.8, "default", 1))
    RunFolder(folder).predictions.unlink()
    records.write(mixtures, ["table2"])
    entry = read_json(mixtures.layout.statistics("table2"))
    reasons = {(each["from"], each["to"]): each["reason"] for each in entry["left_out"]}
    key = ("base/qa/w1.0/default", "base/qa_mcc/w0.8/default")
    assert "train failed: no memory left" in reasons[key]
    assert "no such file" in reasons[key[0], "base/qa_mcc_sc/w0.8/default"]
    found = comparison(entry, "baseline", "qa_sc")
    assert found["seeds"] == [1, 3]
    assert any("seed 2: evaluate failed: no disk" in note for note in found["notes"])
    records.write(mixtures, list(mixtures.tables))  # without any run of table 3
    records.collect(mixtures)
    everything = read_json(mixtures.layout.all_statistics)
    assert set(everything["tables"]) == set(mixtures.tables)
    assert everything["tables"]["table3"]["comparisons"] == []
    cell = everything["cells"]["base/qa_sc/w0.8/default"]["paper_dev"]["em"]
    assert cell["seeds"] == [1, 3] and cell["deviation"] is not None


def test_statistics_are_the_same_each_time(mixtures):
    make_runs(mixtures, "table2", [0.4, 0.7, 0.41, 0.8])
    records.write(mixtures, ["table2"])
    first = mixtures.layout.statistics("table2").read_bytes()
    records.write(mixtures, ["table2"])
    assert mixtures.layout.statistics("table2").read_bytes() == first


@pytest.mark.parametrize("content", [{}, {"comparisons": []}])
def test_statistics_that_lack_a_key_are_refused_in_one_line(mixtures, content):
    write_json(mixtures.layout.statistics("table2"), content)
    with pytest.raises(MtdnnError, match=r"table2\.json: is not as .* writes it; run it again"):
        records.read_entry(mixtures, "table2")
    write_json(mixtures.layout.all_statistics, content)
    with pytest.raises(MtdnnError, match=r"statistics\.json: is not as"):
        records.read_statistics(mixtures)


@pytest.mark.slow
def test_nine_runs_of_five_seeds_on_the_official_size(tmp_path):
    """Half a minute on two cores is at most a minute on one; memory stays below 2 GB."""
    experiment = make_experiment(tmp_path, seeds=[1, 2, 3, 4, 5])
    rows, random = make_questions(experiment, 1187, 10), np.random.default_rng(0)
    rows += [{**rows[0], "id": f"more{number}"} for number in range(3)]
    path = experiment.layout.corpus("squad") / "dev.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert len(rows) == 11_873
    runs = experiment.runs()
    assert len(runs) == 9 * 5
    for run in runs:
        folder = make_run(experiment, run)
        words = random.integers(0, 40, (len(rows), 3)).astype(str)
        table = {
            "corpus": ["squad"] * len(rows),
            "split": ["dev"] * len(rows),
            "id": [row["id"] for row in rows],
            "answer": [" ".join(each) for each in words],
            "null_odds": random.standard_normal(len(rows)),
        }
        pq.write_table(pa.table(table), RunFolder(folder).predictions)
    write_json(tmp_path / "experiment.yaml", experiment.model_dump(mode="json"))
    command = [sys.executable, "-m", "mtdnn", "statistics", str(tmp_path / "experiment.yaml")]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{time.monotonic() - started:.1f} s, {seconds:.1f} s of CPU, {after.ru_maxrss} kB")
    assert seconds < 60
    assert after.ru_maxrss < 2_000_000
