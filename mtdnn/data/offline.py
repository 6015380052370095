"""Everything that an experiment downloads, in one folder, for machines without a network."""

import os
import tempfile
from pathlib import Path

from mtdnn.config.experiment import Experiment
from mtdnn.machine.progress import say


def places(folder: Path) -> dict[str, str]:
    """Return the environment variables that make every step read its downloads from `folder`."""
    return {
        "MTDNN_CACHE": str(folder.absolute()),
        "HF_HUB_CACHE": str(folder.absolute() / "hub"),
    }


def fetch(experiment: Experiment, folder: Path) -> dict[str, str]:
    """Download every encoder and corpus of an experiment's runs into `folder` and verify them.

    Each is also built once from its downloads, into a temporary folder, so that a bad one is
    found here and not on the machine without a network. The lock file next to the experiment
    records what Hub revisions resolved to.

    Returns:
        The environment variables for the machine without a network.

    Raises:
        MtdnnError: a download fails, is damaged, or differs from what is pinned.
    """
    os.environ.update(places(folder))  # before the Hub's client is imported: it reads them then
    from mtdnn.data import encoders
    from mtdnn.data.corpora import fetching

    assert experiment.lock is not None  # `load` has set it
    lock, runs = Path(experiment.lock), experiment.runs()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        for name in sorted({run.encoder for run in runs}):
            say(f"encoder {name}")
            output = Path(scratch, "encoders", name)
            encoders.fetch(name, experiment.encoders[name], lock=lock, output=output)
        for name in sorted(experiment.corpora_used()):
            say(f"corpus {name}")
            corpus = experiment.corpora[name]
            root = experiment.data_path(getattr(corpus.source, "root", None))
            output = Path(scratch, "corpora", name)
            fetching.fetch(name, corpus, root=root, lock=lock, output=output)
    return {**places(folder), "HF_HUB_OFFLINE": "1"}
