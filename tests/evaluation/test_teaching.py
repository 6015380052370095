"""Files of logits hold what plain models say about each training item."""

import numpy as np
import pytest
import torch
import transformers

from mtdnn.data.logits import ROWS, Logits, origin_of, row_starts
from mtdnn.errors import MtdnnError
from mtdnn.evaluation import teaching
from mtdnn.evaluation.teaching import teach
from mtdnn.machine.files import sha256, write_json
from mtdnn.model.batches import batch_of
from mtdnn.model.plain import AUTO_CLASSES
from mtdnn.model.saving import export, save
from tests.support.packed import Prepared, changed, sequences_of
from tests.support.tiny import FAMILIES


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run with a saved model, whose features have several windows for some questions."""
    prepared = Prepared(
        tmp_path_factory.mktemp("teacher"),
        training={"batch_size": 8},  # with dropout
        features={"max_length": 24, "max_question_length": 8, "stride_tokens": 6},
    )
    model = changed(prepared)
    folder = prepared.run_dir / "model"
    folder.mkdir()
    save(model, prepared.run, prepared.encoder, folder)
    files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    write_json(folder / "run.json", {"files": files})
    return prepared


def path_of(prepared, corpus):
    return prepared.layout.logits(prepared.run.id.path, corpus)


def plain_logits(model, corpus, batch):
    """The logits of a plain model for the sequences of a batch, one by one, end to end."""
    with torch.no_grad():
        if corpus == "swag":
            inputs = [{k: v[None] for k, v in each.items()} for each in sequences_of(batch)]
            return torch.cat([model(**each).logits for each in inputs])
        outputs = [model(**each) for each in sequences_of(batch)]
    if corpus == "squad":
        pairs = [(each.start_logits[0], each.end_logits[0]) for each in outputs]
        return torch.cat([torch.stack(pair, dim=1) for pair in pairs])
    rows = [each.logits[0] if corpus == "ner" else each.logits for each in outputs]
    return torch.cat(rows)


@pytest.mark.parametrize("corpus", FAMILIES)
def test_they_are_those_of_plain_models(tmp_path, teacher, corpus, monkeypatch):
    monkeypatch.setitem(teaching.TOKENS_PER_BATCH, "cpu", 60)  # several batches, sorted by length
    teach(teacher.run_dir, teacher.run, corpus, threads=1)
    export(teacher.run_dir, teacher.run, corpus, tmp_path / "plain")
    name = AUTO_CLASSES[FAMILIES[corpus]]
    auto = getattr(transformers, name if isinstance(name, str) else name.__name__)
    model = auto.from_pretrained(tmp_path / "plain").eval()
    features, logits = teacher.features[corpus], Logits(path_of(teacher, corpus))
    logits.check(origin_of(teacher.layout, teacher.run.id, teacher.run, corpus))
    starts = row_starts(features)
    assert len(starts) == len(features) + 1
    for item in range(len(features)):
        batch = batch_of(features, np.array([item]))
        found = logits.of(starts, np.array([item]))
        assert found.dtype == np.float32
        expected = plain_logits(model, corpus, batch)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
    items = np.array([7, 0, 3])  # in any order, as batches need them
    rows = [logits.of(starts, items[n : n + 1]) for n in range(3)]
    assert np.array_equal(logits.of(starts, items), np.concatenate(rows))
    assert (
        len(logits.of(starts, items))
        == {
            "token": batch_of(features, items).tokens,
            "sequence": len(batch_of(features, items).lengths),
        }[ROWS[FAMILIES[corpus]]]
    )


def test_they_are_computed_again_only_if_something_changed(teacher, capsys, monkeypatch):
    path = path_of(teacher, "cola")
    teach(teacher.run_dir, teacher.run, "cola", threads=1, force=True)
    before = path.stat().st_mtime_ns
    teach(teacher.run_dir, teacher.run, "cola", threads=1)
    assert path.stat().st_mtime_ns == before and "up to date" in capsys.readouterr().err
    monkeypatch.setattr(teaching, "code_of", lambda step: f"other code of {step}")
    teach(teacher.run_dir, teacher.run, "cola", threads=1)
    assert path.stat().st_mtime_ns != before


def test_the_precision_is_that_of_training(teacher):
    """What is learnt depends on no setting of decoding."""
    contents = []
    for precision in ("fp32", "bf16"):
        decoding = teacher.run.decoding.model_copy(update={"precision": precision})
        run = teacher.run.model_copy(update={"decoding": decoding})
        teach(teacher.run_dir, run, "cola", threads=1, force=True)
        contents.append(Logits(path_of(teacher, "cola")).header)  # with the digest of the logits
    assert contents[0] == contents[1] and "digest" in contents[0]


def test_a_corpus_that_the_run_was_not_trained_on_is_refused(teacher):
    with pytest.raises(MtdnnError, match=r"was not trained on 'sst' but on squad, swag") as error:
        teach(teacher.run_dir, teacher.run, "sst", threads=1)
    assert "\n" not in str(error.value)


def test_logits_that_are_not_finite_are_refused(teacher, monkeypatch):
    path = path_of(teacher, "mnli")
    path.unlink(missing_ok=True)
    bare = teaching.load

    def spoilt(*arguments):
        model = bare(*arguments)
        model.heads["mnli"].linear.bias.data[0] = torch.inf
        return model

    monkeypatch.setattr(teaching, "load", spoilt)
    with pytest.raises(MtdnnError, match="gives logits of mnli that are not finite") as error:
        teach(teacher.run_dir, teacher.run, "mnli", threads=1)
    assert "\n" not in str(error.value) and not path.exists()
