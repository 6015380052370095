"""All that an experiment needs from outside, in one folder: for machines without a network."""

import os
import tempfile
from pathlib import Path

from mtdnn.config.experiment import Experiment
from mtdnn.machine.progress import say


def places(folder: Path) -> dict[str, str]:
    """Environment variables by which every later step finds its downloads in `folder`."""
    return {
        "MTDNN_CACHE": str(folder.absolute()),
        "HF_HUB_CACHE": str(folder.absolute() / "hub"),
    }


def fetch(experiment: Experiment, folder: Path) -> dict[str, str]:
    """Bring every encoder and corpus of an experiment's runs to `folder`, verified.

    Each is made once from what was downloaded, as on the machine without a network later. What
    Hub revisions resolved to is written to the lock file beside the experiment.

    Returns:
        The environment variables for the machine without a network.

    Raises:
        MtdnnError: something cannot be had, is damaged, or is not what is pinned.
    """
    os.environ.update(places(folder))  # the Hub's client reads its own when it is imported
    from mtdnn.data import encoders
    from mtdnn.data.corpora import fetching

    lock, runs = Path(experiment.lock), experiment.runs()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as room:
        for name in sorted({run.encoder for run in runs}):
            say(f"encoder {name}")
            settings = experiment.encoders[name]
            encoders.fetch(name, settings, lock=lock, output=Path(room, "encoders", name))
        mixtures = [experiment.mixtures[run.mixture] for run in runs]
        for name in sorted({name for mixture in mixtures for name in mixture.corpora}):
            say(f"corpus {name}")
            settings = experiment.corpora[name]
            root = experiment.data_path(getattr(settings.source, "root", None))
            output = Path(room, "corpora", name)
            fetching.fetch(name, settings, root=root, lock=lock, output=output)
    return {**places(folder), "HF_HUB_OFFLINE": "1"}
