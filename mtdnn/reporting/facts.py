"""How the results were produced: seeds, commits, corpora, devices, hours, and what is missing."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunFolder
from mtdnn.evaluation.results import Result, read_results
from mtdnn.machine.files import read_json
from mtdnn.reporting.escaping import restructured

LOCAL_UI = "http://127.0.0.1:5000"
"""Where `make ui` serves the MLflow store if the experiment names no tracking server."""


def facts(experiment: Experiment) -> dict[str, Any]:
    """Return facts about the existing runs as plain text; none of them is a score."""
    results = read_results(experiment)
    scored = [result.metrics for result in results if result.metrics]
    origins = [metrics.get("provenance", {}) for metrics in scored]
    times = _times(origins)
    digests: dict[str, dict[str, None]] = {}
    for origin in origins:
        for corpus, digest in origin.get("corpora", {}).items():
            digests.setdefault(corpus, {})[str(digest)[:12]] = None
    return {
        "experiment": experiment.experiment,
        "title": experiment.title,
        "notice": experiment.notice or "",
        "seeds": ", ".join(map(str, experiment.seeds)),
        "runs": f"{len(scored)} of {len(results)}",
        "commit": _distinct(origin.get("commit") for origin in origins),
        "scored": _distinct(origin.get("scored", {}).get("commit") for origin in origins),
        "devices": ", ".join(times) or "–",
        "hours": ", ".join(f"{time} on {device}" for device, time in times.items()) or "–",
        "corpora": [
            f"{experiment.corpora[name].label}: {', '.join(known)}"
            for name, known in digests.items()
            if name in experiment.corpora
        ],
        "missing": [f"{result.run.path}: {result.missing}" for result in results if result.missing],
    }


def line(known: Mapping[str, Any]) -> str:
    """Return the facts in one line, as footers and captions show it."""
    return (
        f"{known['runs']} runs scored; seeds {known['seeds']}; trained at commit "
        f"{known['commit']}, scored at {known['scored']}; training time {known['hours']}; corpora "
        f"{'; '.join(known['corpora']) or '–'}."
    )


def provenance(results: Iterable[Result]) -> str:
    """Return one line on how these results were produced: commits, devices and training time."""
    metrics = [result.metrics for result in results if result.metrics is not None]
    origins = [each.get("provenance", {}) for each in metrics]
    if not metrics:
        return "No run has been scored yet."
    trained = _distinct(origin.get("commit") for origin in origins)
    scored = _distinct(origin.get("scored", {}).get("commit") for origin in origins)
    fingerprints = len({each.get("fingerprint") for each in metrics})
    time = ", ".join(f"{time} on {device}" for device, time in _times(origins).items())
    return (
        f"Trained at commit {trained}, scored at {scored}; "
        f"{fingerprints} run{'s' if fingerprints != 1 else ''} (distinct fingerprints); "
        f"training time {time}."
    )


class Captions(Mapping[str, Any]):
    """The facts and the front page as reStructuredText; the runs are read when one is rendered."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._known: dict[str, Any] | None = None

    def _read(self) -> dict[str, Any]:
        if self._known is None:
            # The Snakefile imports this module.
            from mtdnn.reporting.conclusion import front

            known = facts(self._experiment)
            text = " ".join(filter(None, [known["notice"], line(known)]))
            page = front(self._experiment)
            picture = page.pop("picture")
            escaped = _escaped({**known, **page, "line": text})
            self._known = {**escaped, "picture": picture}
        return self._known

    def __getitem__(self, name: str) -> Any:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return "the facts of the runs"


def _escaped(value: Any) -> Any:
    """Escape every text in a value, but not the keys."""
    if isinstance(value, dict):
        return {name: _escaped(each) for name, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list) else restructured(value)


def run_link(experiment: Experiment, result: Result) -> str | None:
    """Return the address of a run in MLflow's user interface; None if MLflow has no such run."""
    found = _mlflow(experiment, result)
    return f"{_interface(experiment)}/#/experiments/{found[0]}/runs/{found[1]}" if found else None


def compare_link(experiment: Experiment, results: list[Result]) -> str | None:
    """Return the address of MLflow's comparison of these runs, or of the run if it is only one."""
    found = [each for result in results if (each := _mlflow(experiment, result))]
    if len(found) < 2:
        links = [run_link(experiment, result) for result in results]
        return next((link for link in links if link), None)
    runs = ",".join(f'"{run}"' for _, run in found)
    query = f'runs=[{runs}]&experiments=["{found[0][0]}"]'.replace('"', "%22")
    return f"{_interface(experiment)}/#/compare-runs?{query}"


def _mlflow(experiment: Experiment, result: Result) -> tuple[str, str] | None:
    """The ids of the MLflow experiment and run of a result; None if it was not logged."""
    store = experiment.layout.store
    logged = RunFolder(result.folder).logged
    if not (store.exists() and logged.exists()):
        return None
    run = read_json(logged).get("run_id")
    known = read_json(store).get("experiment_id")
    return (str(known), str(run)) if run and known else None


def _interface(experiment: Experiment) -> str:
    """The address of the tracking server, or of the local interface."""
    uri = experiment.tracking_uri or ""
    return uri.rstrip("/") if uri.startswith(("http:", "https:")) else LOCAL_UI


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value or "unknown") for value in values)) or "–"


def _times(origins: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Training time on each device, with its unit."""
    hours: dict[str, float] = {}
    for origin in origins:
        device = str(origin.get("device") or "unknown device")
        hours[device] = hours.get(device, 0.0) + (origin.get("seconds") or 0) / 3600
    return {device: f"{h:.1f} h" if h >= 1 else f"{h * 60:.1f} min" for device, h in hours.items()}
