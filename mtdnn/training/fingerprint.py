"""What determines a trained model, and whether a run's folder holds that model already."""

from pathlib import Path
from typing import Any

from mtdnn.config.layout import Layout
from mtdnn.config.settings import MOST_GPUS, RunSettings
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest, read_json
from mtdnn.machine.provenance import code_digest
from mtdnn.model.fast import plain


def check_processes(layout: Layout, run: RunSettings, identity: dict[str, Any]) -> None:
    """Refuse to begin anew what was begun with another number of GPUs.

    Sums in another order and other dropout masks would make it another training.
    """
    gpus = run.training.gpus
    for other in range(1, MOST_GPUS + 1):
        training = run.training.model_copy(update={"gpus": other})
        settings = digest(run.model_copy(update={"training": training}).determining())
        parts = {**_parts(identity), "config_digest": settings}
        state = layout.state(digest(parts)[:32])
        if other != gpus and any(state.glob("step*")):
            raise MtdnnError(
                f"{state}: the run was begun with training.gpus: {other}, and {gpus} would not "
                f"give the same result; go on with {other}, or delete this folder to begin anew"
            )


def is_finished(run_dir: Path, run: RunSettings) -> bool:
    """Whether a run's folder holds what training it now would make.

    Raises:
        MtdnnError: its encoder or its corpora are not there.
    """
    return has_made(run_dir, fingerprint(Layout.of_run(run_dir), run))


def has_made(run_dir: Path, identity: dict[str, Any]) -> bool:
    description = run_dir / "model" / "run.json"
    if not description.exists() or not (run_dir / "training.jsonl").exists():
        return False
    return read_json(description).get("fingerprint") == identity["fingerprint"]


def fingerprint(layout: Layout, run: RunSettings) -> dict[str, Any]:
    """What determines a trained model: settings, corpora, encoder, code; and one digest of all."""
    parts = {
        "config_digest": digest(run.determining()),
        "corpora": {
            name: read_json(
                layout.features(run.encoder_name, run.features_variant, name) / "features.json"
            )["corpus_digest"]
            for name in run.corpora
        },
        "encoder": read_json(layout.encoder(run.encoder_name) / "manifest.json")["digest"],
        # Plain paths draw other dropout masks: a training goes on only as it began.
        "code": "-".join([code_digest("training.loop"), *plain()]),
    }
    return {"fingerprint": digest(parts)[:32], **parts}


def _parts(identity: dict[str, Any]) -> dict[str, Any]:
    """All that a fingerprint is a digest of."""
    return {name: part for name, part in identity.items() if name != "fingerprint"}
