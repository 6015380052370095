"""Runs that train nothing: their model is put together from the models of other runs."""

import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from mtdnn.config.layout import Layout, RunFolder
from mtdnn.config.settings import RunSettings
from mtdnn.data.features import check_unchanged, training_features
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_product
from mtdnn.machine.locking import Lease
from mtdnn.machine.progress import say
from mtdnn.machine.provenance import environment
from mtdnn.machine.staging import finish_publishing
from mtdnn.model.device import device_name
from mtdnn.model.merging import combined, mean
from mtdnn.model.multitask import MultiTaskModel, build
from mtdnn.model.saving import load_trained
from mtdnn.training.fingerprint import Fingerprint
from mtdnn.training.product import Product, publish


def make(run_dir: Path, run: RunSettings, threads: int | None = None, wait: bool = False) -> None:
    """Put a run's model together; its schedule and its training log are empty.

    Args:
        run_dir: the run's folder.
        run: its resolved settings, with `training.average`.
        threads: CPU threads; all cores by default.
        wait: if another process is at work on the run, wait for it and take its result.

    Raises:
        MtdnnError: a run that it averages is missing, was changed or does not fit.
        Busy: another process is at work on the run, and `wait` is false.
    """
    if threads:
        torch.set_num_threads(threads)
    layout = Layout.of_run(run_dir)
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    with Lease(layout.lease(run_dir), "the run is being averaged", wait) as lease:
        was_ready = finish_publishing(run_dir)
        RunFolder(run_dir).failure.unlink(missing_ok=True)  # of an earlier attempt
        fingerprint = Fingerprint.of(layout, run)
        if (lease.waited or was_ready) and fingerprint.is_made_in(run_dir):
            return
        check_unchanged(layout, run, "train")
        sizes = {name: len(corpus) for name, corpus in training_features(layout, run).items()}
        model = averaged(layout, run)
        origin = {"device": device_name(torch.device("cpu")), "threads": torch.get_num_threads()}
        provenance = {
            **environment(),
            **origin,
            **{"precision": "fp32", "started": started, "steps": 0, "tokens": 0},
            "seconds": round(time.monotonic() - began, 3),
            "parts": [{"from_step": 0, **origin}],
            "averaged": {
                source.path: _fingerprint_of(layout.run(source)) for source in run.sources
            },
        }
        product = Product(model, [], sizes, [], provenance)
        publish(run_dir, run, fingerprint, product, lease.check)
    say(f"{run_dir}: made of {len(run.sources)} runs")


def averaged(layout: Layout, run: RunSettings) -> MultiTaskModel:
    """Return the model of a run that averages others, on the CPU.

    Raises:
        MtdnnError: the weights of one of them are missing or were changed, or do not fit.
    """
    assert run.training.average is not None
    model = build(layout.encoder(run.encoder_name), run)
    sources = [load_trained(RunFolder(layout.run(source)).model) for source in run.sources]
    networks = [each.network(settings.target) for each, settings in sources]
    start = model.encoder.state_dict()
    try:
        model.encoder.load_state_dict(
            combined(start, [encoder.state_dict() for encoder, _ in networks], run.training.average)
        )
        for name, head in model.heads.items():
            having = [place for place, (each, _) in enumerate(sources) if name in each.heads]
            head.load_state_dict(
                mean([sources[place][0].heads[name].state_dict() for place in having])
            )
            if name == run.target:
                model.pooler.load_state_dict(
                    mean([networks[place][1].state_dict() for place in having])
                )
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MtdnnError(
            "training.average: the runs have models of different kinds, or other heads than "
            f"training.heads of the average: {reason}"
        ) from None
    return model


def _fingerprint_of(run_dir: Path) -> str:
    return str(read_product(RunFolder(run_dir).description).get("fingerprint"))
