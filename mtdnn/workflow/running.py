"""Steps of runs on this machine, without Snakemake, and what a failed step leaves behind."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from mtdnn.config.experiment import Experiment
from mtdnn.config.layout import RunFolder, RunId
from mtdnn.config.loading import load_run
from mtdnn.config.settings import RunSettings
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.errors import Busy, reason
from mtdnn.machine.files import write_json, write_text

# torch is imported inside functions: steps that need none start without it.


def train_and_evaluate(
    experiment: Experiment, runs: Sequence[RunId], threads: int | None = None
) -> None:
    """Train and evaluate runs one after another; skip what is up to date.

    Needs the features of the runs. The first failure ends it.

    Args:
        runs: some of the experiment's runs.
        threads: CPU threads; all cores when absent.
    """
    from mtdnn.training import fingerprint, loop, schedule

    for number, run in enumerate(runs, 1):
        folder, settings = experiment.layout.run(run), experiment.resolve(run)
        is_trained = fingerprint.is_finished(folder, settings)
        if is_trained and _is_evaluated(folder, settings):
            print(f"{run.path}: up to date", file=sys.stderr)
            continue
        print(f"{run.path}: {number} of {len(runs)}", file=sys.stderr)
        write_settings(experiment, run)
        if not is_trained:
            run_step("schedule", folder, partial(schedule.write, folder, settings))
            run_step("train", folder, partial(loop.train, folder, settings, threads))
        evaluate(folder, settings, threads)


def _is_evaluated(folder: Path, settings: RunSettings) -> bool:
    """Whether a trained run has predictions that were decoded under these settings."""
    files = RunFolder(folder)
    return files.predictions.exists() and load_run(files.config).decoding == settings.decoding


def write_settings(experiment: Experiment, run: RunId) -> None:
    """Write the resolved settings of a run to its folder."""
    text = dump_yaml(experiment.resolve(run))
    write_text(RunFolder(experiment.layout.run(run)).config, text)


def evaluate(folder: Path, settings: RunSettings, threads: int | None = None) -> None:
    """Predict a run's dev sets.

    Raises:
        MtdnnError: weights are missing; existing predictions stay where they are.
    """
    from mtdnn.evaluation import predictions
    from mtdnn.model import saving

    saving.check_weights(RunFolder(folder).model)
    run_step("evaluate", folder, partial(predictions.evaluate, folder, settings, threads))


def run_step(step: str, folder: Path, work: Callable[[], None]) -> None:
    """Do one step of a run; if it fails, keep the reason in the run's folder, for the tables.

    The products of this step and of later steps are deleted first, so that scores of an earlier
    model never stand beside a later failure.

    Args:
        step: a key of `STEPS`.
        folder: the run's folder.
        work: does the step.
    """
    files = RunFolder(folder)
    for path in (files.failure, *files.products_from(step)):
        path.unlink(missing_ok=True)
    try:
        work()
    except (KeyboardInterrupt, Busy):
        raise
    except BaseException as error:
        with suppress(OSError):  # the disk may be what failed
            write_json(files.failure, {"step": step, "reason": reason(error).splitlines()[0]})
        raise
