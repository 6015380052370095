"""A run's metrics.json: its predictions scored on every slice and every auxiliary dev set."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mtdnn import slices
from mtdnn.config import Experiment, load_run
from mtdnn.errors import MtdnnError
from mtdnn.files import read_json, write_json
from mtdnn.layout import Layout
from mtdnn.provenance import commit
from mtdnn.settings import RunSettings
from mtdnn.squad.scoring import Scores, best, score_answers, summary
from mtdnn.squad.thresholds import null_odds_auc, tune


@dataclass(frozen=True)
class Questions:
    """Questions of one split and how a run answered them; every column has one entry each."""

    ids: list[str]
    contexts: list[str]
    odds: list[float]
    scores: Scores

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: list[int]) -> "Questions":
        """Some of the questions, in the order of `indices`."""
        columns = (self.ids, self.contexts, self.odds)
        return Questions(
            *([column[index] for index in indices] for column in columns),
            self.scores.take(indices),
        )

    def overlap(self, ids: set[str], contexts: set[str]) -> list[bool]:
        """Is the question's id among `ids` or its context among `contexts`?"""
        return [
            identifier in ids or context in contexts
            for identifier, context in zip(self.ids, self.contexts, strict=True)
        ]


def write(run_dir: Path, experiment: Experiment) -> None:
    """Score a run's predictions and write its `metrics.json`.

    A slice that shares a question's id or a context with the run's training split is not
    measurable and gets no scores. With `tune_threshold_on`, each slice is scored again at
    the null threshold that maximises F1 on the questions of that split or other slice, as far
    as the run was not trained on them; except a slice that shares questions or contexts with them.

    Raises:
        MtdnnError: a slice names unknown articles or has other counts than expected; the
            predictions do not fit the corpora.
    """
    run_dir = Path(run_dir)
    run = load_run(run_dir / "config.yaml")
    layout = experiment.layout
    trained = read_json(run_dir / "model" / "run.json")
    for name in run.corpora:
        _check_corpus(name, trained, layout, run_dir)

    slices = _score_slices(run_dir, experiment, run, layout)
    first = next(iter(slices.values()))
    write_json(
        run_dir / "metrics.json",
        {
            "experiment": experiment.experiment,
            "notice": experiment.notice,
            "run": {
                "encoder": run.encoder_name,
                "mixture": run.mixture,
                "qa_weight": run.qa_weight,
                "variant": run.variant,
                "seed": run.seed,
            },
            "em": first.get("exact"),
            "f1": first.get("f1"),
            "slices": slices,
            "auxiliary": _score_auxiliary(run_dir / "auxiliary.parquet", run, layout),
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
    """Scores of every slice, in the experiment's order."""
    corpus = layout.corpus(run.primary)
    training = _read(corpus / "train.parquet", ["id", "context"])
    known = set(training["id"].to_pylist()), set(training["context"].unique().to_pylist())
    measured, tuning = _select(run_dir, experiment, corpus)
    unseen = {
        name: questions.take(
            [index for index, each in enumerate(questions.overlap(*known)) if not each]
        )
        for name, questions in tuning.items()
    }
    results = {}
    for name, entry in experiment.slices.items():
        questions = measured[name]
        seen = sum(questions.overlap(*known))
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
        other = entry.tune_threshold_on or experiment.tune_threshold_on
        others = unseen.get(other)
        if others and not any(questions.overlap(set(others.ids), set(others.contexts))):
            scores = others.scores
            tuned = tune(scores.f1, scores.answerable, scores.answered, others.odds)
            results[name]["tuned"] = {
                "threshold": tuned,
                "tuned_on": other,
                **summary(questions.scores, questions.odds, tuned),
            }
    return results


def _select(
    run_dir: Path, experiment: Experiment, corpus: Path
) -> tuple[dict[str, Questions], dict[str, Questions]]:
    """The questions of each slice, and those on which thresholds are tuned, by slice or split."""
    split = experiment.tune_threshold_on
    names = {entry.split for entry in experiment.slices.values()} | ({split} - {None})
    columns = slices.columns(list(experiment.slices.values()))
    rows, answered = {}, {}
    for name in sorted(names):
        table = _read(corpus / f"{name}.parquet", ["id", *columns])
        rows[name] = {column: table[column].to_pylist() for column in ["id", *columns]}
        answered[name] = _read_answers(rows[name], f"{corpus.name} {name}", name, run_dir)
    measured = {
        name: answered[entry.split].take(slices.select(name, entry, rows[entry.split]))
        for name, entry in experiment.slices.items()
    }
    return measured, measured | ({split: answered[split]} if split else {})


def _read_answers(
    rows: Mapping[str, list], name: str, split: str, run_dir: Path
) -> Questions:
    """All questions of a split with the run's predictions, in the order of the corpus."""
    path = run_dir / "predictions.parquet"
    predictions = {
        row["id"]: row
        for row in _read(path, ["split", "id", "answer", "null_odds"]).to_pylist()
        if row["split"] == split
    }
    ids = rows["id"]
    missing = [identifier for identifier in ids if identifier not in predictions]
    if missing:
        raise MtdnnError(
            f"{path}: {len(missing)} of the {len(ids)} questions of {name} are "
            f"missing, the first is {missing[0]!r}; evaluate the run again"
        )
    answers = [predictions[identifier]["answer"] for identifier in ids]
    return Questions(
        ids=ids,
        contexts=rows["context"],
        odds=[predictions[identifier]["null_odds"] for identifier in ids],
        scores=score_answers(rows["answer_texts"], answers),
    )


# --- auxiliary corpora -----------------------------------------------------------------------


def _score_auxiliary(path: Path, run: RunSettings, layout: Layout) -> dict[str, dict[str, Any]]:
    """Scores of every auxiliary corpus on its own dev set.

    F1 is that of label 1 where sequences have one of two labels, else the mean over labels.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    table = _read(path, ["corpus", "row", "label", "prediction"]).to_pandas()
    results = {}
    for name, corpus in run.corpora.items():
        if name == run.primary:
            continue
        rows = table[table["corpus"] == name]
        expected = read_json(layout.corpus(name) / "manifest.json")["splits"]["dev"]["rows"]
        if sorted(rows["row"]) != list(range(expected)):
            raise MtdnnError(
                f"{path}: {name}: must hold each of the {expected} dev rows once, has "
                f"{rows['row'].nunique()} of them in {len(rows)} rows; evaluate the run again"
            )
        labels, predictions = rows["label"].to_numpy(), rows["prediction"].to_numpy()
        average = "binary" if len(corpus.labels) == 2 else "macro"
        results[name] = {
            "label": corpus.label,
            "accuracy": 100.0 * float(accuracy_score(labels, predictions)),
            "matthews": float(matthews_corrcoef(labels, predictions)),
            "f1": 100.0 * float(f1_score(labels, predictions, average=average, zero_division=0)),
            "majority": 100.0 * int(rows["label"].value_counts().max()) / expected,
            "rows": expected,
        }
    return results


# --- input -----------------------------------------------------------------------------------


def _check_corpus(name: str, trained: Mapping[str, Any], layout: Layout, run_dir: Path) -> None:
    """Refuse to score a run against other rows than those it was trained and evaluated on."""
    path = layout.corpus(name) / "manifest.json"
    if read_json(path)["digest"] != trained["corpora"].get(name):
        raise MtdnnError(
            f"{path}: digest: differs from the {name} that {run_dir} was trained on; "
            "train the run again, or fetch the corpus that it had"
        )


def _read(path: Path, columns: list[str]) -> pa.Table:
    """Columns of a Parquet file."""
    try:
        return pq.read_table(path, columns=columns)
    except FileNotFoundError:
        raise MtdnnError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise MtdnnError(f"{path}: not readable: {str(error).splitlines()[0]}") from None
