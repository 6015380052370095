"""Schedules: shares, epochs, and what happens when a corpus runs dry."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mtdnn.config.layout import Layout
from mtdnn.config.phases import phases_of
from mtdnn.config.settings import ScheduleSettings, TrainingSettings
from mtdnn.data.features import training_features
from mtdnn.training import schedule
from mtdnn.training.schedule import draw, of_run
from tests.support.policies import supplies
from tests.support.tiny import make_run_folder
from tests.support.trained import schedule_of

SIZES = {"squad": 1003, "swag": 90, "cola": 40, "mnli": 17}
EVEN = {"squad": 0.4, "swag": 0.2, "cola": 0.2, "mnli": 0.2}


def steps_of(sizes=SIZES, weight=0.4, batch_size=8, epochs=2, seed=1, **options):
    """The steps of a run whose target is SQuAD; the shares are `EVEN` unless options differ."""
    training = TrainingSettings(batch_size=batch_size, epochs=epochs)
    phases = phases_of(ScheduleSettings(**options), training, list(sizes), "squad")
    return list(draw(phases, supplies(sizes, batch_size), weight, seed))


def plain(steps):
    return [(s.step, s.epoch, s.corpus, s.rows.tolist()) for s in steps]


def batches(steps, corpus, epoch=None):
    return [s.rows.tolist() for s in steps if s.corpus == corpus and epoch in (None, s.epoch)]


# --- shares ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.5, 0.8, 0.9])
def test_corpora_are_drawn_as_often_as_their_shares_say(weight):
    probabilities = {"squad": weight, "swag": (1 - weight) / 2}
    probabilities |= {"cola": (1 - weight) / 4, "mnli": (1 - weight) / 4}
    sizes = {**SIZES, "squad": 8 * 10_000}
    steps = steps_of(sizes, weight, epochs=1, spread="families")
    # The last step is always one of the target corpus: the epoch ends with it.
    counts = Counter(step.corpus for step in steps[:-1])
    observed = [counts[name] for name in probabilities]
    expected = [p * (len(steps) - 1) for p in probabilities.values()]
    assert chisquare(observed, expected).pvalue > 1e-4
    # Steps in an epoch: batches / weight, within four standard deviations.
    spread = math.sqrt(10_000 * (1 - weight)) / weight
    assert abs(len(steps) - 10_000 / weight) < 4 * spread + 1


def test_draws_do_not_depend_on_what_was_drawn_before():
    names = [step.corpus for step in steps_of(sizes={**SIZES, "squad": 8 * 10_000}, epochs=1)]
    after = Counter(itertools.pairwise(names[:-1]))
    for name, probability in EVEN.items():
        following = [after[name, other] for other in EVEN]
        expected = [p * sum(following) for p in EVEN.values()]
        assert chisquare(following, expected).pvalue > 1e-4, (name, probability)


# --- epochs and batches ----------------------------------------------------------------------

OPTIONS = {
    "dry": st.sampled_from(["refill", "renormalise", "skip"]),
    "recut": st.sampled_from(["each_epoch", "once"]),
}


@given(
    sizes=st.fixed_dictionaries({name: st.integers(1, 60) for name in SIZES}),
    batch_size=st.integers(1, 20),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    options=st.fixed_dictionaries(OPTIONS),
)
@settings(max_examples=60)
def test_every_schedule(sizes, batch_size, epochs, seed, options):
    steps = steps_of(sizes, 0.4, batch_size, epochs, seed, **options)
    assert [step.step for step in steps] == list(range(len(steps)))
    assert [step.epoch for step in steps] == sorted(step.epoch for step in steps)
    assert {step.epoch for step in steps} == set(range(epochs))
    for name, epoch in itertools.product(sizes, range(epochs)):
        cut = batches(steps, name, epoch)
        full = math.ceil(sizes[name] / batch_size)
        last = sizes[name] - (full - 1) * batch_size
        passes = [cut[i : i + full] for i in range(0, len(cut), full)]
        if name == "squad":
            assert len(cut) == full  # each batch exactly once an epoch
        elif options["dry"] != "refill":
            assert len(passes) <= 1
        for number, some in enumerate(passes):
            rows = [row for batch in some for row in batch]
            assert len(set(rows)) == len(rows) and set(rows) <= set(range(sizes[name]))
            if len(some) == full or number < len(passes) - 1:  # a whole pass: every row once
                assert sorted(rows) == list(range(sizes[name]))
                assert sorted(map(len, some)) == sorted([batch_size] * (full - 1) + [last])
            if options["recut"] == "each_epoch":  # the smaller batch comes last
                assert all(len(batch) == batch_size for batch in some[: full - 1])
    for epoch in range(epochs):  # an epoch ends with the last batch of the target corpus
        assert [step for step in steps if step.epoch == epoch][-1].corpus == "squad"


def test_batches_are_cut_again_or_only_reordered():
    for corpus in ("squad", "cola"):
        first, second = (
            [frozenset(batch) for batch in batches(steps_of(recut="once"), corpus, epoch)]
            for epoch in (0, 1)
        )
        assert set(first) == set(second)
        assert first[: len(second)] != second[: len(first)]
        first, second = (
            {frozenset(batch) for batch in batches(steps_of(recut="each_epoch"), corpus, epoch)}
            for epoch in (0, 1)
        )
        assert not first & second


def test_rows_are_shuffled():
    order = np.concatenate([np.array(batch) for batch in batches(steps_of(), "squad", 0)])
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 4 / math.sqrt(len(order))


# --- dry corpora -----------------------------------------------------------------------------

FEW = {"squad": 8 * 4_000, "swag": 8 * 900, "cola": 8 * 200, "mnli": 8}


def test_a_dry_corpus_is_refilled():
    steps = steps_of(sizes={**FEW, "cola": 20}, epochs=1, dry="refill")
    drawn = batches(steps, "cola")
    assert len(drawn) > 1000
    passes = [drawn[i : i + 3] for i in range(0, len(drawn) - 2, 3)]
    assert all(sorted(itertools.chain(*some)) == list(range(20)) for some in passes)
    assert len({tuple(some[0]) for some in passes}) > 100


def test_a_dry_corpus_leaves_its_share_to_the_other_auxiliaries():
    steps = steps_of(sizes=FEW, epochs=1, dry="renormalise")
    names = [step.corpus for step in steps]
    lasts = {name: len(names) - 1 - names[::-1].index(name) for name in EVEN}
    assert lasts["mnli"] < lasts["cola"] < lasts["swag"] < lasts["squad"]
    stages = [
        (lasts["mnli"] + 1, lasts["cola"], {"squad": 0.4, "swag": 0.3, "cola": 0.3}),
        (lasts["cola"] + 1, lasts["swag"], {"squad": 0.4, "swag": 0.6}),
    ]
    for begin, end, promised in stages:
        counts = Counter(names[begin:end])
        assert set(counts) == set(promised)
        expected = [p * (end - begin) for p in promised.values()]
        assert chisquare([counts[n] for n in promised], expected).pvalue > 1e-4
    assert set(names[lasts["swag"] + 1 :]) == {"squad"}
    assert Counter(names) == {name: size // 8 for name, size in FEW.items()}


def test_draws_of_a_dry_corpus_are_skipped():
    skipped = steps_of(sizes=FEW, epochs=1, dry="skip")
    # The same draws as with refilling, without those of a dry corpus.
    refilled = [step.corpus for step in steps_of(sizes=FEW, epochs=1, dry="refill")]
    left, expected = {name: size // 8 for name, size in FEW.items()}, []
    for name in refilled:
        if left[name]:
            left[name] -= 1
            expected.append(name)
    assert [step.corpus for step in skipped] == expected


def test_a_new_epoch_fills_a_dry_corpus_again():
    for dry in ("renormalise", "skip"):
        steps = steps_of(sizes=FEW, epochs=2, dry=dry)
        assert len(batches(steps, "mnli", 0)) == len(batches(steps, "mnli", 1)) == 1


# --- seeds and files -------------------------------------------------------------------------


def test_the_seed_determines_everything():
    assert plain(steps_of(seed=5)) == plain(steps_of(seed=5))
    first, second = steps_of(seed=5), steps_of(seed=6)
    assert [s.corpus for s in first] != [s.corpus for s in second]
    assert batches(first, "squad")[0] != batches(second, "squad")[0]


def some(*names):
    return {name: SIZES[name] for name in names}


def test_adding_a_corpus_does_not_move_other_batches():
    alone, more = steps_of(some("squad"), 1.0), steps_of()
    pair = steps_of(some("squad", "swag"), 0.7)
    for epoch in (0, 1):
        assert batches(alone, "squad", epoch) == batches(pair, "squad", epoch)
        assert batches(alone, "squad", epoch) == batches(more, "squad", epoch)
        swag = zip(batches(pair, "swag", epoch), batches(more, "swag", epoch), strict=False)
        if epoch == 0:
            assert all(a == b for a, b in swag)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return make_run_folder(tmp_path_factory.mktemp("schedule"))


def sizes_of(run_dir, run):
    return {n: len(some) for n, some in training_features(Layout.of_run(run_dir), run).items()}


def test_the_file_holds_the_drawn_steps(run_folder):
    run_dir, run = run_folder
    sizes = sizes_of(run_dir, run)
    assert sizes["swag"] == 40  # items, not sequences
    drawn = list(of_run(run, sizes))
    assert plain(schedule_of(run_dir)) == plain(drawn)
    assert {step.corpus for step in drawn} == set(run.corpora)
    assert max(step.epoch for step in drawn) + 1 == run.training.epochs
    assert schedule.counts(run_dir) == [Counter(step.corpus for step in drawn)]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("?")])
def test_an_unreadable_schedule_has_no_counts_and_is_drawn_again(run_folder, tmp_path, damage):
    run_dir, run = run_folder
    expected = (run_dir / "schedule.parquet").read_bytes()
    (tmp_path / "schedule.parquet").write_bytes(expected)
    damage(tmp_path / "schedule.parquet")
    assert schedule.counts(tmp_path) == []
    damage(run_dir / "schedule.parquet")
    schedule.write(run_dir, run)
    assert (run_dir / "schedule.parquet").read_bytes() == expected


@pytest.mark.parametrize("recut", ["each_epoch", "once"])
def test_steps_of_weight_takes_as_many_steps_as_the_mixture(recut):
    sizes, options = {"squad": 500, "swag": 90, "cola": 40}, {"batch_size": 16, "seed": 7}
    mixed = steps_of(sizes, 0.8, recut=recut, **options)
    only = {"squad": 500}
    alone = steps_of(only, 1.0, recut=recut, steps_of_weight=0.8, **options)
    plain = steps_of(only, 1.0, recut=recut, **options)
    assert [step.step for step in alone] == [step.step for step in mixed]
    assert {step.corpus for step in alone} == {"squad"}
    # The batches of the run without the setting, in their order, with others between them.
    rest = iter([step.rows.tolist() for step in alone])
    assert all(step.rows.tolist() in rest for step in plain)
