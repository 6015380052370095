"""Score a run's predictions on every slice and every auxiliary dev set: its metrics.json."""

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdnn.config.experiment import Experiment, Slice
from mtdnn.config.layout import MANIFEST, Layout, RunFolder
from mtdnn.config.loading import load_run
from mtdnn.config.settings import CorpusSettings, RunSettings
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.entities import entities
from mtdnn.evaluation.scoring import Scores, best, score_answers, summary
from mtdnn.evaluation.slices import belongs
from mtdnn.evaluation.thresholds import null_odds_auc, tune
from mtdnn.machine.files import read_columns, read_json, write_json
from mtdnn.machine.provenance import commit

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Questions:
    """N questions of one split and a run's answers to them; each column has N entries.

    Attributes:
        ids: question ids.
        titles: titles of the questions' articles.
        contexts: contexts.
        texts: the questions themselves.
        answers: gold answers; an empty list for an unanswerable question.
        odds: null odds, in logits.
        scores: scores of the non-null answers.
    """

    ids: list[str]
    titles: list[str]
    contexts: list[str]
    texts: list[str]
    answers: list[list[str]]
    odds: list[float]
    scores: Scores

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: list[int]) -> "Questions":
        """Return the questions at `indices`, in that order."""
        return Questions(
            ids=[self.ids[index] for index in indices],
            titles=[self.titles[index] for index in indices],
            contexts=[self.contexts[index] for index in indices],
            texts=[self.texts[index] for index in indices],
            answers=[self.answers[index] for index in indices],
            odds=[self.odds[index] for index in indices],
            scores=self.scores.take(indices),
        )

    def overlap(self, ids: set[str], contexts: set[str]) -> list[bool]:
        """Return for each question whether its id is in `ids` or its context in `contexts`."""
        return [
            identifier in ids or context in contexts
            for identifier, context in zip(self.ids, self.contexts, strict=True)
        ]


def write(run_dir: Path, experiment: Experiment) -> None:
    """Score a run's predictions and write its `metrics.json`.

    EM and F1 are in percent, as evaluate-v2.0.py gives them; `mtdnn.evaluation.scoring` says how.
    A slice that shares a question id or a context with the run's training split is not measurable
    and gets no scores. With `tune_threshold_on`, each slice is scored again at the null threshold
    that maximises F1 on another split or slice. Questions that the run was trained on are left
    out of the tuning, and a slice that shares questions or contexts with the remaining ones gets
    no tuned scores.

    Raises:
        MtdnnError: a slice names unknown articles or has unexpected counts, or the predictions
            or the corpora do not belong to the run.
    """
    files = RunFolder(Path(run_dir))
    run = load_run(files.config)
    layout = experiment.layout
    trained = read_json(files.description)
    for name in run.corpora:
        _check_corpus(name, trained, layout, files.path)

    slices = _score_slices(files.path, experiment, run, layout)
    first = next(iter(slices.values()))
    write_json(
        files.metrics,
        {
            "experiment": experiment.experiment,
            "notice": experiment.notice,
            "run": {
                "encoder": run.encoder_name,
                "mixture": run.mixture,
                "weight": run.weight,
                "variant": run.variant,
                "seed": run.seed,
            },
            "em": first.get("exact"),
            "f1": first.get("f1"),
            "slices": slices,
            "auxiliary": _score_auxiliary(files.auxiliary, run, layout),
            "fingerprint": trained["fingerprint"],
            "provenance": {
                **trained["provenance"],
                "scored": {"commit": commit()},
                "corpora": trained["corpora"],
            },
        },
    )


# --- question answering ----------------------------------------------------------------------


def _score_slices(
    run_dir: Path, experiment: Experiment, run: RunSettings, layout: Layout
) -> dict[str, dict[str, Any]]:
    """Score every slice, in the experiment's order."""
    corpus = layout.corpus(run.target)
    tuned_on = experiment.tune_threshold_on
    names: set[str] = {entry.split for entry in experiment.slices.values()}
    if tuned_on:
        names.add(tuned_on)
    splits = {name: read_questions(corpus, name, run_dir) for name in sorted(names)}
    training = read_columns(corpus / "train.parquet", ["id", "context"])
    trained_on = set(training["id"].to_pylist()), set(training["context"].unique().to_pylist())
    measured = {
        name: select(name, entry, splits[entry.split]) for name, entry in experiment.slices.items()
    }
    tuning = {
        name: _tune((measured | splits)[name], trained_on)
        for name in {entry.tune_threshold_on or tuned_on for entry in experiment.slices.values()}
        if name
    }
    results: dict[str, dict[str, Any]] = {}
    for name, entry in experiment.slices.items():
        questions = measured[name]
        seen = sum(questions.overlap(*trained_on))
        if seen:
            results[name] = {
                "label": entry.label,
                "measurable": False,
                "reason": f"{seen} of its {len(questions)} questions are about contexts "
                "that the run was trained on",
            }
            continue
        threshold = run.decoding.null_threshold
        results[name] = {
            "label": entry.label,
            "questions": len(questions),
            "threshold": threshold,
            **summary(questions.scores, questions.odds, threshold),
            **best(questions.scores, questions.odds),
            "null_odds_auc": null_odds_auc(questions.odds, questions.scores.answerable),
            "tuned": None,
        }
        other = entry.tune_threshold_on or tuned_on
        outcome = tuning.get(other) if other else None
        if outcome:
            tuned, others = outcome
            if not any(questions.overlap(set(others.ids), set(others.contexts))):
                results[name]["tuned"] = {
                    "threshold": tuned,
                    "tuned_on": other,
                    **summary(questions.scores, questions.odds, tuned),
                }
    return results


def _tune(
    questions: Questions, trained_on: tuple[set[str], set[str]]
) -> tuple[float, Questions] | None:
    """Find the threshold with the best F1 on the questions that the run was not trained on.

    Args:
        questions: the questions to tune on.
        trained_on: ids and contexts of the training split.

    Returns:
        The threshold, and the questions that it was tuned on; None if there are none.
    """
    unseen = [index for index, seen in enumerate(questions.overlap(*trained_on)) if not seen]
    if not unseen:
        return None
    remaining = questions.take(unseen)
    scores = remaining.scores
    return tune(scores.f1, scores.answerable, scores.answered, remaining.odds), remaining


def select(name: str, entry: Slice, questions: Questions) -> Questions:
    """Return the questions that belong to a slice.

    Args:
        name: the slice's name, for messages.
        entry: the slice's conditions and expected counts.
        questions: all questions of the slice's split.

    Raises:
        MtdnnError: the slice names an unknown article, has other counts than expected, or has no
            questions.
    """
    titles = set(questions.titles)
    for title in [*entry.titles, *entry.exclude_titles]:
        if title not in titles:
            raise MtdnnError(f"slices.{name}: the split {entry.split} has no article {title!r}")
    columns = (questions.titles, questions.contexts, questions.texts, questions.answers)
    rows = enumerate(zip(*columns, strict=True))
    selected = questions.take([index for index, row in rows if belongs(entry, *row)])
    answerable = sum(selected.scores.answerable)
    for what, found, expected in (
        ("questions", len(selected), entry.questions),
        ("answerable questions", answerable, entry.answerable),
    ):
        if expected is not None and found != expected:
            raise MtdnnError(f"slices.{name}: has {found} {what}, {expected} are expected")
    if not len(selected):
        raise MtdnnError(f"slices.{name}: has no questions")
    return selected


def read_questions(corpus: Path, split: str, run_dir: Path) -> Questions:
    """Read all questions of a split and the run's predictions, in the order of the corpus.

    Args:
        corpus: the corpus's folder.
        split: `dev` or `held_out`.
        run_dir: the run's folder.

    Raises:
        MtdnnError: a file is missing or not readable, or a question has no prediction.
    """
    path = RunFolder(run_dir).predictions
    columns = ["id", "title", "context", "question", "answer_texts"]
    table = read_columns(corpus / f"{split}.parquet", columns)
    ids, titles, contexts, texts, golds = (table[column].to_pylist() for column in columns)
    predictions = {
        row["id"]: row
        for row in read_columns(path, ["split", "id", "answer", "null_odds"]).to_pylist()
        if row["split"] == split
    }
    missing = [identifier for identifier in ids if identifier not in predictions]
    if missing:
        raise MtdnnError(
            f"{path}: {len(missing)} of the {len(ids)} questions of {corpus.name} {split} are "
            f"missing, the first is {missing[0]!r}; evaluate the run again"
        )
    answers = [predictions[identifier]["answer"] for identifier in ids]
    return Questions(
        ids=ids,
        titles=titles,
        contexts=contexts,
        texts=texts,
        answers=golds,
        odds=[predictions[identifier]["null_odds"] for identifier in ids],
        scores=score_answers(golds, answers),
    )


# --- auxiliary corpora -----------------------------------------------------------------------


def _score_auxiliary(path: Path, run: RunSettings, layout: Layout) -> dict[str, dict[str, Any]]:
    """Score the predictions of every auxiliary corpus on its own dev set."""
    columns = ["corpus", "row", "label", "prediction"]
    if any(corpus.family == "token_classification" for corpus in run.corpora.values()):
        columns += ["tags", "predicted_tags"]
    table = read_columns(path, columns).to_pandas()
    results = {}
    for name, corpus in run.corpora.items():
        if name == run.target:
            continue
        rows = table[table["corpus"] == name]
        expected = read_json(layout.corpus(name) / MANIFEST)["splits"]["dev"]["rows"]
        if sorted(rows["row"]) != list(range(expected)):
            raise MtdnnError(
                f"{path}: {name}: must have each of the {expected} dev rows once, has "
                f"{rows['row'].nunique()} of them in {len(rows)} rows; evaluate the run again"
            )
        results[name] = {"label": corpus.label, **_scores(corpus, rows), "rows": expected}
    return results


def _scores(corpus: CorpusSettings, rows: "pd.DataFrame") -> dict[str, float]:
    """Return the scores of an auxiliary corpus's predictions, by its family.

    F1 is that of label 1 if the corpus has two labels, else the mean over labels (macro); entity
    F1 is that of `mtdnn.evaluation.entities`. Accuracy, F1 and the share of the majority label are
    in percent; correlations are from -1 to 1.
    """
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    if corpus.family == "token_classification":
        sides = [
            [[corpus.labels[tag] for tag in tags] for tags in rows[name]]
            for name in ("tags", "predicted_tags")
        ]
        gold, predicted = ([entities(tags) for tags in side] for side in sides)
        found = sum(len(a & b) for a, b in zip(gold, predicted, strict=True))
        total = sum(len(each) for side in (gold, predicted) for each in side)
        words = [list(itertools.chain(*side)) for side in sides]
        return {
            "entity_f1": 200.0 * found / total if total else 0.0,
            "accuracy": 100.0 * float(accuracy_score(*words)),
            "majority": 100.0 * Counter(words[0]).most_common(1)[0][1] / len(words[0]),
        }
    labels, predictions = rows["label"].to_numpy(), rows["prediction"].to_numpy()
    if corpus.family == "regression":
        return {
            "pearson": float(pearsonr(labels, predictions)[0]),
            "spearman": float(spearmanr(labels, predictions)[0]),
        }
    average = "binary" if len(corpus.labels) == 2 else "macro"
    return {
        "accuracy": 100.0 * float(accuracy_score(labels, predictions)),
        "matthews": float(matthews_corrcoef(labels, predictions)),
        "f1": 100.0 * float(f1_score(labels, predictions, average=average, zero_division=0)),
        "majority": 100.0 * int(rows["label"].value_counts().max()) / len(rows),
    }


# --- input -----------------------------------------------------------------------------------


def _check_corpus(name: str, trained: Mapping[str, Any], layout: Layout, run_dir: Path) -> None:
    """Make sure that a corpus still has the rows that the run was trained and evaluated on."""
    path = layout.corpus(name) / MANIFEST
    if read_json(path)["digest"] != trained["corpora"].get(name):
        raise MtdnnError(
            f"{path}: digest: differs from the {name} that {run_dir} was trained on; "
            "retrain the run, or fetch the corpus that it was trained on"
        )
