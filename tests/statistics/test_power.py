"""What so many seeds could find agrees with the power of the t-test."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from mtdnn.config.loading import load
from mtdnn.machine.files import write_json
from mtdnn.statistics import power
from tests.support.factories import make_experiment
from tests.support.published_scores import write_published


@pytest.mark.parametrize("seeds", [3, 5, 10, 40])
@pytest.mark.parametrize("deviation", [0.3, 1.7])
def test_a_detectable_difference_is_found_in_four_of_five_cases(seeds, deviation):
    difference = power.detectable(deviation, seeds)
    found = TTestIndPower().power(difference / deviation, nobs1=seeds, alpha=0.05)
    assert found == pytest.approx(0.8, abs=0.01)


def test_the_power_of_simulated_runs():
    random, difference = np.random.default_rng(1), power.detectable(0.5, 4)
    first = random.normal(70, 0.5, (20_000, 4))
    second = random.normal(70 + difference, 0.5, (20_000, 4))
    assert (stats.ttest_ind(first, second, axis=1).pvalue < 0.05).mean() == pytest.approx(
        0.8, abs=0.02
    )


@pytest.mark.parametrize("difference", [0.2, 0.5, 1.0, 3.0])
def test_one_seed_less_would_not_be_enough(difference):
    seeds = power.seeds_for(difference, 0.3)
    assert power.detectable(0.3, seeds) <= difference
    assert seeds == 2 or power.detectable(0.3, seeds - 1) > difference


def test_deviations_are_pooled_by_their_degrees_of_freedom():
    groups = [[1.0, 2.0], [3.0, 5.0, 8.0], [2.0, 2.5, 4.0, 9.0]]
    spreads = [(float(np.std(group, ddof=1)), len(group)) for group in groups]
    residuals = [value - np.mean(group) for group in groups for value in group]
    assert power.pooled(spreads) == pytest.approx(np.sqrt(np.sum(np.square(residuals)) / 6))


def test_the_paper_without_runs_has_a_stated_prior():
    (outlook,) = power.outlooks(load("config/paper.yaml"))
    assert (outlook.label, outlook.seeds, outlook.runs) == ("EM", 3, 0)
    assert outlook.gain == pytest.approx(74.58 - 73.544)
    first, second = power.lines([outlook])
    assert first == (
        "Smallest detectable difference (power 80%, two-sided test at 5%): at best "
        f"{power.detectable(power.PRIOR, 3):.1f} points of EM with 3 seeds; the largest published "
        "gain is 1.04."
    )
    assert second == (
        "This assumes a standard deviation of 0.24 points between seeds, as for BERT base on MNLI "
        "(McCoy et al. 2020); few items and short training runs make it much larger."
    )


def test_earlier_runs_replace_the_prior_and_count_once(tmp_path):
    """A row that is in two tables is one group of runs."""
    experiment = make_experiment(tmp_path, seeds=[1, 2, 3])
    rows = {row.path: row for table in experiment.tables.values() for row in table.rows}
    cell = {"em": {"mean": 70.0, "deviation": 0.5, "seeds": [1, 2, 3]}}
    cells = {path: {"paper_dev": cell} for path in rows}
    write_json(experiment.layout.all_statistics, {"tables": {}, "cells": cells})
    (outlook,) = power.outlooks(experiment)
    assert outlook.deviation == pytest.approx(0.5) and outlook.runs == 3 * len(rows)
    assert "0.50 points between seeds, estimated from 27 runs" in power.lines([outlook])[1]


def test_from_runs_that_do_not_vary_nothing_is_estimated(tmp_path):
    experiment = make_experiment(tmp_path, seeds=[1, 2, 3], published=write_published(tmp_path))
    (row, *_) = (row for table in experiment.tables.values() for row in table.rows)
    cell = {"em": {"mean": 50.0, "deviation": 0.0, "seeds": [1, 2, 3]}}
    content = {"tables": {}, "cells": {row.path: {"paper_dev": cell}}}
    write_json(experiment.layout.all_statistics, content)
    (outlook,) = power.outlooks(experiment)
    assert (outlook.deviation, outlook.runs) == (0, 3) and outlook.gain
    assert outlook.difference is outlook.enough is None
    assert power.lines([outlook]) == [
        "Smallest detectable difference: cannot be estimated, because the EM of 3 runs does not "
        "vary between seeds."
    ]


def test_one_seed_finds_nothing_of_methods(tmp_path):
    (outlook,) = power.outlooks(make_experiment(tmp_path))
    assert outlook.difference is None
    (line, _) = power.lines([outlook])
    assert line.endswith("none with 1 seed; at best 0.7 points of EM with 3 seeds.")


def test_a_gain_that_needs_more_seeds_says_how_many():
    outlook = power.Outlook("EM", 3, 0.6, 9, power.detectable(0.6, 3), 6, 1.04)
    assert outlook.difference == pytest.approx(1.82, abs=0.01)
    (line, _) = power.lines([dataclasses.replace(outlook, enough=power.seeds_for(1.04, 0.6))])
    assert "the largest published gain is 1.04, for which 7 seeds are enough" in line


def test_a_gain_that_no_number_of_seeds_finds_is_not_promised_to_a_thousand():
    assert power.seeds_for(0.001, 0.3) is None
    outlook = power.Outlook("EM", 3, 0.3, 9, power.detectable(0.3, 3), None, 0.001)
    assert "for which even 1,000 seeds are too few" in power.lines([outlook])[0]


def test_the_published_gain_is_that_of_the_measure_that_is_named():
    paper = load("config/paper.yaml")
    squad = paper.corpora["squad"].model_copy(update={"metrics": ["f1"]})
    paper = paper.model_copy(update={"corpora": {**paper.corpora, "squad": squad}})
    (outlook,) = power.outlooks(paper)
    assert (outlook.label, outlook.gain) == ("F1", pytest.approx(77.15 - 76.18))
