"""Packing lays sequences end to end and takes them apart again."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mtdnn.data.features import Sequences
from mtdnn.model.batches import BLOCK_TOKENS, TARGETS, Lesson, PackedBatch, pack, tail_unit
from mtdnn.workflow.estimates import LENGTHS
from tests.support.packed import Prepared, fields, some_sequences
from tests.support.tiny import FAMILIES


@given(some_sequences())
def test_a_packed_batch(sequences):
    batch = pack(sequences, "multiple_choice")
    starts = np.cumsum(sequences.lengths) - sequences.lengths
    assert batch.tokens == sequences.lengths.sum()
    assert batch.first_tokens.tolist() == starts.tolist()
    assert batch.position_ids[batch.first_tokens].eq(0).all()
    assert batch.position_ids.tolist() == [i for n in sequences.lengths for i in range(n)]
    padded = batch.padded_places.view(len(starts), batch.longest).tolist()
    for start, length, row in zip(starts, sequences.lengths, padded, strict=True):
        assert row == [*range(start, start + length)] + [batch.tokens] * (len(row) - length)
    assert batch.padded_places[batch.token_places].tolist() == list(range(batch.tokens))


@given(some_sequences())
def test_padding_and_its_inverse(sequences):
    batch = pack(sequences, "multiple_choice")
    padded = batch.pad(batch.input_ids, -1)
    rows = [row[row >= 0].tolist() for row in padded]
    assert rows == [part.tolist() for part in batch.input_ids.split(batch.lengths)]
    assert torch.equal(padded >= 0, batch.mask)
    assert torch.equal(batch.unpad(padded), batch.input_ids)
    vectors = torch.randn(batch.tokens, 2, 3)
    assert batch.pad(vectors, 0.0).shape == (len(batch.lengths), max(batch.lengths), 2, 3)
    assert torch.equal(batch.unpad(batch.pad(vectors, 0.0)), vectors)


@given(some_sequences(), st.data())
def test_parts_of_a_batch_are_batches(sequences, data):
    batch = pack(sequences, "multiple_choice")
    items = len(sequences.items) - 1
    first = data.draw(st.integers(0, items - 1))
    last = data.draw(st.integers(first + 1, items))
    part = batch.slice(first, last)
    a, b = sequences.items[first], sequences.items[last]
    begin, end = sequences.lengths[:a].sum(), sequences.lengths[:b].sum()
    columns = {
        name: value[a:b] if name == "label" else value[begin:end]
        for name, value in sequences.columns.items()
    }
    expected = Sequences(sequences.lengths[a:b], sequences.items[first : last + 1] - a, columns)
    assert fields(part) == fields(pack(expected, "multiple_choice"))
    assert fields(batch.slice(0, items)) == fields(batch)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return Prepared(tmp_path_factory.mktemp("batches"))


@pytest.mark.parametrize("corpus", FAMILIES)
def test_a_batch_of_features(prepared, corpus):
    features, items = prepared.features[corpus], [5, 0, 3]
    batch = prepared.batch(corpus, items)
    assert set(batch.targets) == set(TARGETS[features.family])
    size = batch.tokens if corpus == "ner" else len(batch.lengths)
    assert len(batch.items) == 4 and all(len(t) == size for t in batch.targets.values())
    assert batch.input_ids.dtype == batch.position_ids.dtype == torch.int64
    kind = torch.float32 if corpus == "stsb" else torch.int64
    assert {target.dtype for target in batch.targets.values()} == {kind}
    assert batch.terms == features.terms(np.array(items)).sum()
    for place, item in enumerate(items):
        assert fields(batch.slice(place, place + 1)) == fields(prepared.batch(corpus, [item]))


@pytest.mark.parametrize("corpus", FAMILIES)
def test_a_tail_has_no_target(prepared, corpus):
    batch = prepared.batch(corpus)
    longer = batch.with_tail()
    assert fields(longer.slice(0, len(batch.items) - 1)) == fields(batch)
    assert longer.terms == batch.terms


def test_moving_a_batch_changes_only_its_device(prepared):
    batch = prepared.batch("swag")
    assert isinstance(batch.to(torch.device("cpu")), PackedBatch)
    assert fields(batch.to(torch.device("cpu"))) == fields(batch)
    assert batch.to(torch.device("meta")).input_ids.device.type == "meta"


# --- tails -----------------------------------------------------------------------------------


@given(st.integers(1, 40_000))
def test_a_tail_is_short(tokens):
    unit = tail_unit(tokens)
    assert BLOCK_TOKENS % unit == 0
    assert unit <= max(16, 0.128 * tokens)


# What the paper's QA+MCC+SC takes at w 0.8, in steps.
STEPS = {"squad": 16_290, "swag": 1_018, "cola": 1_018, "mrpc": 1_018, "mnli": 1_018}


@pytest.fixture(scope="module")
def occurrences():
    """How often each shape occurs in a run on the five corpora: batches of 16 of their lengths."""
    draw, found, tails, tokens = np.random.default_rng(1), Counter(), 0, 0
    for corpus, steps in STEPS.items():
        size = (steps, 64 if corpus == "swag" else 16)
        lengths = np.interp(draw.random(size), np.linspace(0, 1, 11), LENGTHS[corpus]).astype(int)
        for row in lengths:
            ids = torch.zeros(row.sum(), dtype=torch.int64)
            items = np.arange(0, len(row) + 1, len(row) // 16)
            batch = PackedBatch(ids, ids, ids, tuple(row.tolist()), items, {}).with_tail()
            found[corpus, *batch.shape] += 1
            tails, tokens = tails + batch.tail, tokens + batch.tokens
    return found, tails / tokens


def test_a_run_on_five_corpora_has_few_shapes(occurrences):
    found, share = occurrences
    assert sum(found.values()) == sum(STEPS.values())
    assert 80 < len(found) < 110
    assert Counter(corpus for corpus, *_ in found)["squad"] < 40
    assert share < 0.03  # of all tokens is in tails


@pytest.mark.parametrize("cost", [1, 2, 4, 8])
def test_to_record_at_the_second_occurrence_costs_least(occurrences, cost):
    """A recording costs as much as `cost` steps would save by it."""

    def lost(sightings):
        unrecorded = sum(min(count, sightings - 1) for count in occurrences[0].values())
        recorded = sum(count >= sightings for count in occurrences[0].values())
        return unrecorded + cost * recorded

    assert min(range(2, 10), key=lost) == 2
    assert lost(2) < 0.05 * sum(STEPS.values())


@given(some_sequences())
def test_a_tail_changes_nothing_in_the_batch(sequences):
    batch = pack(sequences, "multiple_choice")
    longer = batch.with_tail()
    assert longer.tokens == batch.tokens + longer.tail and longer.tail >= 1
    assert longer.longest == BLOCK_TOKENS and longer.bounds[-1] == longer.tokens
    assert fields(longer.slice(0, len(batch.items) - 1)) == fields(batch)
    count = len(batch.lengths)
    for name in ("first_tokens", "token_counts", "item_starts", "item_sizes"):
        assert torch.equal(getattr(longer, name), getattr(batch, name))
    assert longer.bounds[: count + 1].tolist() == batch.bounds.tolist()
    padded = longer.pad(longer.input_ids, -1)
    assert torch.equal(padded[:count, : batch.longest], batch.pad(batch.input_ids, -1))
    assert torch.equal(longer.unpad(padded), longer.input_ids)
    assert torch.equal(padded >= 0, longer.mask)


def test_a_batch_takes_the_contents_of_another_and_keeps_its_memory():
    def batch(seed):
        draw = np.random.default_rng(seed)
        lengths = draw.permutation([2, 5, 3, 7])
        columns = {"input_ids": draw.integers(9, 99, 17), "token_type_ids": draw.integers(0, 2, 17)}
        items = np.array([0, 1, 4]) if seed else np.array([0, 3, 4])
        labels = {"label": draw.integers(0, 2, 4)}
        return pack(Sequences(lengths, items, columns | labels), "multiple_choice").with_tail()

    place, other = batch(0).joined(), batch(1).joined()
    assert place.shape == other.shape
    before = [tensor.data_ptr() for tensor in place.tensors()]
    place.fill(other)
    assert [tensor.data_ptr() for tensor in place.tensors()] == before
    for mine, its in zip(place.tensors(), other.tensors(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("corpus", FAMILIES)
def test_a_joined_batch_is_moved_in_one_copy(prepared, corpus, taught):
    batch = prepared.batch(corpus).with_tail()
    if taught:
        logits = torch.randn(batch.tokens, 2)
        batch = replace(batch, lesson=Lesson(logits, torch.tensor(0.5), 2.0, by_token=True))
    joined = batch.joined()
    for mine, its in zip(joined.tensors(), batch.tensors(), strict=True):
        assert torch.equal(mine, its) and mine.dtype == its.dtype and mine.shape == its.shape
        assert mine.data_ptr() % 8 == 0 and mine.is_contiguous()
        assert mine.untyped_storage().data_ptr() == joined.buffer.data_ptr()
    with Operations() as seen:
        moved = joined.to(torch.device("meta"))
    assert seen.count("_to_copy") == 1
    assert {tensor.device.type for tensor in moved.tensors()} == {"meta"}
    assert moved.shape == batch.shape
    # Changed batches are no longer in the buffer.
    assert joined.with_tail().buffer is None and joined.slice(0, 2).buffer is None


class Operations(TorchDispatchMode):
    """Notes the operations that torch carries out."""

    def __enter__(self):
        self.names = []
        super().__enter__()
        return self.names

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize(("to", "stays"), [("cuda", True), ("cuda:0", True), ("cuda:1", False)])
def test_a_batch_stays_on_its_device_with_and_without_a_number(to, stays):
    with FakeTensorMode():
        ids = torch.zeros(5, dtype=torch.int64, device="cuda:0")
        here = PackedBatch(ids, ids, ids, (2, 3), np.arange(3), {})
        assert (here.to(torch.device(to)) is here) == stays
