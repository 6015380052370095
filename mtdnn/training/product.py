"""What is made of a run: its schedule, its log and its model, which replace the old ones as one."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mtdnn.config.layout import Layout, RunFolder, outdated_by
from mtdnn.config.settings import RunSettings
from mtdnn.machine.files import sha256, write_json, write_text
from mtdnn.machine.staging import publishing
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.model.saving import save
from mtdnn.training import schedule
from mtdnn.training.fingerprint import Fingerprint


class Product(NamedTuple):
    """A trained or averaged model, and how it came about.

    Attributes:
        model: the model.
        steps: the steps of its schedule; none for an average.
        sizes: number of training items of each corpus.
        lines: the lines of its training log.
        provenance: versions, device and cost.
    """

    model: MultiTaskModel
    steps: list[schedule.Step]
    sizes: dict[str, int]
    lines: Sequence[dict[str, Any]]
    provenance: dict[str, Any]


def publish(
    run_dir: Path,
    run: RunSettings,
    fingerprint: Fingerprint,
    product: Product,
    check_holder: Callable[[], None],
) -> None:
    """Replace what a run has; what was computed from an earlier model is removed with it.

    Args:
        run_dir: the run's folder.
        run: its settings.
        fingerprint: its fingerprint, taken before the work began.
        product: what was made.
        check_holder: raises `Busy` if this process no longer holds the run.

    Raises:
        Busy: another process has taken the run over; nothing is changed.
    """
    outdated = [] if fingerprint.is_made_in(run_dir) else outdated_by("train")
    check_holder()
    with publishing(run_dir, outdated) as folder:
        files = RunFolder(folder)
        schedule.save(product.steps, product.sizes, files.schedule)
        write_text(files.log, "".join(json.dumps(line) + "\n" for line in product.lines))
        files.model.mkdir()
        encoder = Layout.of_run(run_dir).encoder(run.encoder_name)
        save(product.model, run, encoder, files.model)
        description = {
            **fingerprint.record(),
            "files": {file.name: sha256(file) for file in sorted(files.model.iterdir())},
            "beside": {file.name: sha256(file) for file in (files.log, files.schedule)},
            "provenance": product.provenance,
            "settings": run.model_dump(mode="json"),
        }
        write_json(files.description, description)
        check_holder()
