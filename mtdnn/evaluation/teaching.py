"""What a trained run says about the items on which another one is trained (distillation)."""

import sys
from pathlib import Path

import numpy as np

from mtdnn.config.dependencies import code_of
from mtdnn.config.layout import Layout, RunFolder
from mtdnn.config.settings import RunSettings
from mtdnn.data.features import Features, check_unchanged
from mtdnn.data.logits import Logits, origin_of, row_starts, write
from mtdnn.errors import MtdnnError
from mtdnn.evaluation.predictions import TOKENS_PER_BATCH, batches_by_length, outputs
from mtdnn.model.device import use_device
from mtdnn.model.saving import load


def teach(
    run_dir: Path, run: RunSettings, corpus: str, threads: int | None = None, force: bool = False
) -> None:
    """Write the logits of a trained run for every training item of one of its corpora.

    They are those of the evaluation's forward pass, without dropout, in the precision with which
    the run was trained: what is learnt from them follows from the settings of training alone.

    Args:
        run_dir: the run's folder, with its trained model.
        run: the run's settings.
        corpus: one of its corpora.
        threads: CPU threads; all cores if absent.
        force: compute them even if the file holds them already.

    Raises:
        MtdnnError: the run was not trained on the corpus; its features or the model are missing,
            broken or changed; or a logit is not finite.
    """
    layout = Layout.of_run(run_dir)
    if corpus not in run.corpora:
        raise MtdnnError(
            f"{run_dir}: was not trained on {corpus!r} but on {', '.join(run.corpora)}"
        )
    path = layout.logits(run.id.path, corpus)
    origin = {**origin_of(layout, run.id, run, corpus), "code": code_of("logits")}
    if not force and path.exists() and Logits(path).comes_from(origin):
        print(f"mtdnn: {path}: up to date", file=sys.stderr, flush=True)
        return
    device = use_device(threads)
    check_unchanged(layout, run, "train")
    model = load(RunFolder(run_dir).model, run).to(device).eval()
    folder = layout.features(run.encoder_name, run.features_variant, corpus)
    features = Features(folder / "train.arrow", run.corpora[corpus].family)
    precision = {"precision": run.training.precision}
    run = run.model_copy(update={"decoding": run.decoding.model_copy(update=precision)})
    starts = row_starts(features)
    batches = list(batches_by_length(features, TOKENS_PER_BATCH[device.type]))
    logits = np.empty((starts[-1], model.head(corpus).linear.out_features), np.float32)
    found = outputs(model, corpus, features, run, device, batches)
    for items, (_, values) in zip(batches, found, strict=True):
        rows = [np.arange(starts[item], starts[item + 1]) for item in items]
        logits[np.concatenate(rows)] = values
    write(path, logits, origin)
