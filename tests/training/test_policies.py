"""Policies: shares, orders, and where epochs end, in schedules that are drawn."""

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from mtdnn.config.phases import phases_of
from mtdnn.config.settings import ScheduleSettings, TrainingSettings
from mtdnn.training.expectation import expected_steps, is_exact, number_of_steps
from mtdnn.training.policies import weighted
from mtdnn.training.schedule import draw
from tests.support.policies import supplies
from tests.support.tiny import FAMILIES

CONFIGS = 1000
# Each config has at most four corpora, three epochs and two tails; together they raise a false
# alarm in fewer than one of a million runs of a test.
TAIL = 1e-6 / (CONFIGS * 4 * 3 * 2)
NAMES = list(FAMILIES)


def phases(sizes, schedule, epochs=2, target="squad"):
    training = TrainingSettings(epochs=epochs)
    return phases_of(ScheduleSettings(**schedule), training, list(sizes), target)


def steps_of(sizes, schedule, *, epochs=2, batch_size=8, weight=0.5, seed=1):
    given = supplies(sizes, batch_size)
    return list(draw(phases(sizes, schedule, epochs), given, weight, seed))


def assert_drawn(names, share):
    """Check that corpora occur as often as independent draws with these shares allow."""
    counts, total = Counter(names), len(names)
    assert counts.keys() <= share.keys()
    for name, part in share.items():
        count, part = counts[name], min(1.0, part)
        assert binom.cdf(count, total, part) > TAIL, (name, count, part * total)
        assert binom.sf(count - 1, total, part) > TAIL, (name, count, part * total)


def in_proportion(values):
    return {name: value / sum(values.values()) for name, value in values.items()}


# --- shares ----------------------------------------------------------------------------------

some_corpora = st.lists(st.sampled_from(NAMES[1:]), unique=True, min_size=1).map(
    lambda names: ["squad", *names]
)
DRAWN = {
    "uniform": st.just({}),
    "proportional": st.fixed_dictionaries({"alpha": st.floats(0, 2)}),
    "temperature": st.fixed_dictionaries(
        {"temperature": st.floats(1, 20), "cap": st.none() | st.integers(1, 10_000)},
        optional={"caps": st.dictionaries(st.sampled_from(NAMES), st.integers(1, 500))},
    ),
    "annealed": st.just({}),
    "weighted": st.just({}),
}
drawn_policies = st.one_of(
    *(options.map(lambda o, kind=kind: {"kind": kind, **o}) for kind, options in DRAWN.items())
)


def expected_shares(policy, sizes, weight, epoch, epochs):
    """The shares as the papers define them."""
    match policy["kind"]:
        case "uniform":
            return dict.fromkeys(sizes, 1 / len(sizes))
        case "proportional":
            return in_proportion({name: size ** policy["alpha"] for name, size in sizes.items()})
        case "temperature":
            limits = dict.fromkeys(sizes, policy["cap"] or math.inf) | policy.get("caps", {})
            capped = {name: min(size, limits[name]) for name, size in sizes.items()}
            return in_proportion({n: s ** (1 / policy["temperature"]) for n, s in capped.items()})
        case "annealed":
            # Stickland and Murray number the epochs from 1 to E.
            alpha = 1 - 0.8 * epoch / (epochs - 1) if epochs > 1 else 1
            return in_proportion({name: size**alpha for name, size in sizes.items()})
        case "weighted":
            rest = (1 - weight) / (len(sizes) - 1)
            return {name: weight if name == "squad" else rest for name in sizes}


@given(
    names=some_corpora,
    sizes=st.lists(st.integers(1, 20_000), min_size=4, max_size=4),
    policy=drawn_policies,
    epochs=st.integers(1, 3),
    steps=st.integers(30, 400),
    weight=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=CONFIGS, deadline=None)
def test_corpora_are_drawn_as_often_as_their_policy_says(
    names, sizes, policy, epochs, steps, weight, seed
):
    sizes = dict(zip(names, sizes, strict=False))
    schedule = {"policy": policy, "steps": steps}
    drawn = steps_of(sizes, schedule, epochs=epochs, weight=weight, seed=seed)
    assert len(drawn) == steps
    for epoch in range(epochs):
        own = [step.corpus for step in drawn if step.epoch == epoch]
        assert len(own) in (steps // epochs, -(-steps // epochs))
        assert_drawn(own, expected_shares(policy, sizes, weight, epoch, epochs))


def test_the_rest_is_spread_over_corpora_or_over_families():
    four = {name: FAMILIES[name] for name in ("squad", "swag", "cola", "mnli")}
    assert weighted(four, "squad", 0.7, "datasets") == pytest.approx(
        {"squad": 0.7, "swag": 0.1, "cola": 0.1, "mnli": 0.1}
    )
    assert weighted(four, "squad", 0.7, "families") == pytest.approx(
        {"squad": 0.7, "swag": 0.15, "cola": 0.075, "mnli": 0.075}
    )
    families = {name: FAMILIES[name] for name in ("squad", "swag")}
    for spread in ("datasets", "families"):
        assert weighted({"squad": FAMILIES["squad"]}, "squad", 1.0, spread) == {"squad": 1.0}
        two = weighted(families, "squad", 0.8, spread)
        assert two == pytest.approx({"squad": 0.8, "swag": 0.2})


# --- orders ----------------------------------------------------------------------------------

some_sizes = some_corpora.flatmap(
    lambda names: st.fixed_dictionaries({name: st.integers(1, 60) for name in names})
)
ORDERED = {
    "sizes": some_sizes,
    "batch_size": st.integers(1, 20),
    "epochs": st.integers(1, 3),
    "seed": st.integers(0, 2**32 - 1),
}


@given(**ORDERED, until=st.sampled_from(["target", "every_corpus"]))
@settings(max_examples=CONFIGS, deadline=None)
def test_round_robin_takes_corpora_in_turn(sizes, batch_size, epochs, seed, until):
    schedule = {"policy": "round_robin", "until": until}
    steps = steps_of(sizes, schedule, epochs=epochs, batch_size=batch_size, seed=seed)
    names = [step.corpus for step in steps]
    assert names == list(itertools.islice(itertools.cycle(sizes), len(names)))
    for epoch in range(epochs):
        own = [step for step in steps if step.epoch == epoch]
        assert_ends(own, sizes, batch_size, until)


def assert_ends(steps, sizes, batch_size, until):
    """Check that an epoch ends with the batch that completes the target, or the last corpus."""
    needed = {"squad": sizes["squad"]} if until == "target" else sizes
    for name, size in needed.items():
        rows = [row for step in steps if step.corpus == name for row in step.rows.tolist()]
        assert set(rows) == set(range(size))
    before = Counter(step.corpus for step in steps[:-1])
    assert any(before[name] < math.ceil(size / batch_size) for name, size in needed.items())


@given(**ORDERED)
@settings(max_examples=CONFIGS, deadline=None)
def test_shuffled_takes_every_item_of_every_corpus_once_in_an_epoch(
    sizes, batch_size, epochs, seed
):
    steps = steps_of(sizes, {"policy": "shuffled"}, epochs=epochs, batch_size=batch_size, seed=seed)
    for epoch, name in itertools.product(range(epochs), sizes):
        batches = [s.rows for s in steps if (s.epoch, s.corpus) == (epoch, name)]
        assert sorted(itertools.chain(*batches)) == list(range(sizes[name]))
        assert len(batches) == math.ceil(sizes[name] / batch_size)


def test_every_order_of_a_shuffled_list_is_equally_frequent():
    orders = Counter()
    for seed in range(3000):
        steps = steps_of({"squad": 16, "cola": 8, "mnli": 8}, {"policy": "shuffled"}, seed=seed)
        for epoch in (0, 1):
            orders[tuple(step.corpus for step in steps if step.epoch == epoch)] += 1
    assert len(orders) == math.factorial(4) / 2
    assert chisquare(list(orders.values())).pvalue > 1e-6


# --- where epochs end ------------------------------------------------------------------------


@given(
    **ORDERED,
    dry=st.sampled_from(["refill", "renormalise", "skip"]),
    policy=st.sampled_from(["weighted", "uniform", "proportional"]),
)
@settings(max_examples=200, deadline=None)
def test_an_epoch_may_end_when_every_corpus_was_seen(sizes, batch_size, epochs, seed, dry, policy):
    schedule = {"until": "every_corpus", "dry": dry, "policy": policy}
    steps = steps_of(sizes, schedule, epochs=epochs, batch_size=batch_size, seed=seed)
    for epoch in range(epochs):
        own = [step for step in steps if step.epoch == epoch]
        assert_ends(own, sizes, batch_size, "every_corpus")
        if dry != "refill":
            exact = {name: math.ceil(size / batch_size) for name, size in sizes.items()}
            assert Counter(step.corpus for step in own) == exact


def test_a_number_of_steps_uses_a_corpus_up_before_it_is_reshuffled():
    steps = steps_of({"squad": 100, "cola": 30}, {"steps": 52, "policy": "round_robin"}, epochs=5)
    rows = [row for step in steps if step.corpus == "squad" for row in step.rows.tolist()]
    assert sorted(rows[:100]) == sorted(rows[100:200]) == list(range(100))


# --- expected steps --------------------------------------------------------------------------

LENGTHS = [{}, {"until": "every_corpus"}, {"steps": 301}]
SIZES = {"squad": 600, "swag": 90, "cola": 300, "mnli": 900}


@pytest.mark.parametrize("length", LENGTHS, ids=str)
@pytest.mark.parametrize("policy", [*DRAWN, "round_robin", "shuffled"])
@pytest.mark.parametrize("dry", ["refill", "renormalise", "skip"])
def test_expected_steps_are_the_mean_of_drawn_schedules(policy, length, dry):
    if dry != "refill" and ("steps" in length or policy == "shuffled"):
        pytest.skip("a corpus is always refilled")
    if (policy, dry) == ("round_robin", "renormalise"):
        pytest.skip("there are no shares to divide")
    kind = {"kind": policy, **({"temperature": 3} if policy == "temperature" else {})}
    schedule, seeds = {"policy": kind, "dry": dry, **length}, 60
    parts = phases(SIZES, schedule, epochs=3)
    (expected,) = expected_steps(parts, supplies(SIZES), 0.4)
    drawn = [
        Counter(step.corpus for step in draw(parts, supplies(SIZES), 0.4, seed))
        for seed in range(seeds)
    ]
    totals = {count.total() for count in drawn}
    assert (len(totals) == 1) == is_exact(parts)
    if is_exact(parts):
        assert totals == {round(sum(expected.values()))}
    for name in SIZES:
        mean = sum(count[name] for count in drawn) / seeds
        assert mean == pytest.approx(expected[name], rel=0.03, abs=3), name


@given(**ORDERED, steps=st.none() | st.integers(1, 90), dry=st.sampled_from(["refill", "skip"]))
@settings(max_examples=300, deadline=None)
def test_expected_steps_in_turn_are_exact_for_every_corpus(
    sizes, batch_size, epochs, seed, steps, dry
):
    schedule = {"policy": "round_robin"}
    schedule |= {"steps": steps} if steps else {"until": "every_corpus", "dry": dry}
    parts = phases(sizes, schedule, epochs)
    (expected,) = expected_steps(parts, supplies(sizes, batch_size), 0.5)
    drawn = Counter(s.corpus for s in draw(parts, supplies(sizes, batch_size), 0.5, seed))
    assert {name: drawn[name] for name in sizes} == expected


def test_expected_steps_of_phases_add_up_and_are_exact_where_each_phase_is():
    exact = [
        {"corpora": ["cola", "mnli"], "policy": "shuffled", "epochs": 1},
        {"policy": {"kind": "proportional", "alpha": 0.5}, "steps": 50},
        {"corpora": ["squad"]},
    ]
    for more in ([], [{"policy": "uniform"}]):
        parts = phases(SIZES, {"phases": [*exact, *more]})
        expected = expected_steps(parts, supplies(SIZES), 1.0)
        assert expected[0] == {"cola": 38, "mnli": 113} and expected[2] == {"squad": 150}
        assert is_exact(parts) == (not more)
        seeds = range(40 if more else 3)
        drawn = [list(draw(parts, supplies(SIZES), 1.0, seed)) for seed in seeds]
        for number, phase in enumerate(expected):
            counts = [sum(step.phase == number for step in steps) for steps in drawn]
            assert sum(counts) / len(counts) == pytest.approx(sum(phase.values()), rel=0.03)
            if not more:
                assert len(set(counts)) == 1


def test_a_phase_does_not_move_the_batches_of_those_before_it():
    first = {"corpora": ["cola", "squad"], "policy": "uniform", "epochs": 1}
    before, after = (
        [
            (step.corpus, step.rows.tolist())
            for step in steps_of(SIZES, {"phases": [first, second]})
            if step.phase == 0
        ]
        for second in ({"steps": 3, "policy": "shuffled"}, {"corpora": ["squad"]})
    )
    assert before == after
    again = steps_of(SIZES, {"phases": [first, first]})
    rows = [[s.rows.tolist() for s in again if s.phase == number] for number in (0, 1)]
    assert rows[0] != rows[1]


# --- joint steps -----------------------------------------------------------------------------

JOINT_LENGTHS = st.sampled_from([{}, {"until": "every_corpus"}, {"steps": 17}])


@given(**ORDERED, length=JOINT_LENGTHS, recut=st.sampled_from(["each_epoch", "once"]))
@settings(max_examples=100, deadline=None)
def test_every_schedule_of_joint_steps(sizes, batch_size, epochs, seed, length, recut):
    schedule = {"joint": True, "policy": "uniform", "recut": recut, **length}
    given = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    drawn = steps_of(sizes, schedule, **given)
    together = [list(group) for _, group in itertools.groupby(drawn, lambda step: step.step)]
    assert [group[0].step for group in together] == list(range(len(together)))
    for group in together:
        assert [step.corpus for step in group] == list(sizes)
        assert len({(step.epoch, step.phase) for step in group}) == 1
    # As many steps as were planned, with any seed.
    parts = phases(sizes, schedule, epochs)
    expected = expected_steps(parts, supplies(sizes, batch_size), 0.5)
    assert is_exact(parts) and number_of_steps(parts, expected) == len(together)
    assert expected == [dict.fromkeys(sizes, len(together))]
    # A corpus is used up before it is reshuffled.
    for name, size in sizes.items():
        for epoch in range(1 if "steps" in length else epochs):
            batches = [
                step.rows.tolist()
                for step in drawn
                if step.corpus == name and ("steps" in length or step.epoch == epoch)
            ]
            full = -(-size // batch_size)
            for start in range(0, len(batches), full):
                rows = [row for batch in batches[start : start + full] for row in batch]
                assert len(set(rows)) == len(rows) <= size
    # The first batches are those of ordinary steps.
    usual = steps_of(sizes, {"policy": "uniform", "recut": recut, **length}, **given)
    for name in sizes:
        pairs = zip(
            *(
                [s.rows.tolist() for s in some if s.corpus == name and not s.epoch]
                for some in (drawn, usual)
            ),
            strict=False,
        )
        assert all(one == other for one, other in pairs)


def test_joint_phases_count_their_steps_once():
    three = [{"joint": True, "steps": 5, "policy": "uniform"}, {"steps": 7, "policy": "uniform"}]
    parts = phases(SIZES, {"phases": [*three, {"corpora": ["squad"], "joint": True, "epochs": 1}]})
    expected = expected_steps(parts, supplies(SIZES), 1.0)
    assert number_of_steps(parts, expected) == 5 + 7 + 75
    drawn = list(draw(parts, supplies(SIZES), 1.0, 1))
    assert drawn[-1].step + 1 == 5 + 7 + 75 and len(drawn) == 20 + 7 + 75
