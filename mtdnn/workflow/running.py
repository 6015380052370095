"""Steps of runs on this machine, without Snakemake, and what a failed step leaves behind."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import Layout, RunFolder, RunId
from mtdnn.config.settings import RunSettings
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import Busy, reason
from mtdnn.machine.files import write_json, write_text
from mtdnn.machine.locking import Lease
from mtdnn.machine.staging import finish_publishing

# torch is imported inside functions: steps that need none start without it.


def train_and_evaluate(
    experiment: Experiment, runs: Sequence[RunId], threads: int | None = None
) -> None:
    """Train and evaluate runs one after another; skip what is up to date.

    Needs the features of the runs. The first failure ends it.

    Args:
        experiment: the experiment.
        runs: some of its runs.
        threads: CPU threads; all cores when absent.
    """
    from mtdnn.evaluation import predictions, teaching
    from mtdnn.training import fingerprint, loop

    for number, run in enumerate(runs, 1):
        folder, settings = experiment.layout.run(run), experiment.resolve(run)
        write_settings(experiment, run)
        is_trained = fingerprint.is_finished(folder, settings)
        if is_trained and predictions.is_evaluated(folder, settings):
            print(f"{run.path}: up to date", file=sys.stderr)
            continue
        print(f"{run.path}: {number} of {len(runs)}", file=sys.stderr)
        if not is_trained:
            check_measurable(experiment, run)
            for corpus, teacher in settings.teachers.items():
                source = experiment.layout.run(teacher)
                teaching.teach(source, experiment.resolve(teacher), corpus, threads)
            run_step("train", folder, partial(loop.train, folder, settings, threads))
        evaluate(folder, settings, threads)


def write_settings(experiment: Experiment, run: RunId, wait: bool = False) -> bool:
    """Write the resolved settings of a run to its folder, unless they are there already.

    Args:
        experiment: the experiment.
        run: one of its runs.
        wait: wait until another process that holds the run has finished.

    Returns:
        Whether they were written.

    Raises:
        Busy: another process works with the old settings, and `wait` is false.
    """
    text, folder = dump_yaml(experiment.resolve(run)), experiment.layout.run(run)
    target = RunFolder(folder).config
    if target.exists() and target.read_bytes() == text.encode():
        return False
    with held(folder, "the run's settings are being written", wait):
        write_text(target, text)
    return True


def check_measurable(experiment: Experiment, run: RunId) -> None:
    """Refuse to train a run that could not be scored; the reason is kept like that of a failure.

    Raises:
        MtdnnError: see `mtdnn.evaluation.measurable.check`.
    """
    from mtdnn.evaluation import measurable

    run_step("train", experiment.layout.run(run), partial(measurable.check, experiment, run))


def evaluate(
    folder: Path, settings: RunSettings, threads: int | None = None, force: bool = False
) -> None:
    """Predict a run's dev sets, unless its folder already holds the predictions.

    Raises:
        MtdnnError: weights are missing; existing predictions stay where they are.
        Busy: another process holds the run.
    """
    from mtdnn.evaluation import predictions
    from mtdnn.model import saving

    if not force and predictions.is_evaluated(folder, settings):
        print(f"mtdnn: {folder}: up to date", file=sys.stderr)
        return
    saving.check_weights(RunFolder(folder).model)
    with held(folder, "the run is being evaluated"):
        # A killed process may have had them ready.
        if not force and predictions.is_evaluated(folder, settings):
            return
        run_step("evaluate", folder, partial(predictions.evaluate, folder, settings, threads))


@contextmanager
def held(folder: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold a run for this process, and finish what a killed one had ready.

    Args:
        folder: the run's folder.
        what: what this process does, for messages.
        wait: wait until another process that holds the run has finished.

    Raises:
        Busy: another process holds the run, and `wait` is false.
    """
    with Lease(Layout.of_run(folder).lease(folder), what, wait):
        finish_publishing(folder)
        RunFolder(folder).failure.unlink(missing_ok=True)  # of an earlier attempt
        yield


def run_step(step: str, folder: Path, work: Callable[[], object]) -> None:
    """Do one step of a run; if it fails, keep the reason in the run's folder, for the tables.

    Existing products stay where they are until the step replaces them.

    Args:
        step: a key of `STEPS`.
        folder: the run's folder.
        work: does the step.
    """
    failure = RunFolder(folder).failure
    try:
        work()
    except (KeyboardInterrupt, Busy):
        raise
    except BaseException as error:
        with suppress(OSError):  # the disk may be what failed
            write_json(failure, {"step": step, "reason": reason(error).splitlines()[0]})
        raise
    failure.unlink(missing_ok=True)
