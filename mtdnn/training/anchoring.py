"""When a run's anchor is set, and the Fisher information that is estimated for it then."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from mtdnn.config.anchors import anchored_phases
from mtdnn.config.layout import FEATURES, Layout, RunFolder
from mtdnn.config.phases import phases_of_run
from mtdnn.config.settings import Anchor, RunSettings
from mtdnn.data.features import Features, training_features
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_product
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.model.saving import load_trained
from mtdnn.training.anchor import Pull
from mtdnn.training.fisher import fisher_information
from mtdnn.training.schedule import Step
from mtdnn.training.team import Team


class Anchoring:
    """Sets the anchor of a run before the steps where that is due.

    Args:
        run_dir: the run's folder.
        run: its settings.
        features: the training features of its corpora.
        steps: its whole schedule.
        pull: what pulls towards the anchor; None if the run has none.
        team: the processes that train the run together.

    Attributes:
        pull: the same.
    """

    def __init__(
        self,
        run_dir: Path,
        run: RunSettings,
        features: Mapping[str, Features],
        steps: Sequence[Step],
        pull: Pull | None,
        team: Team,
    ):
        self._run_dir, self._run, self._features = run_dir, run, features
        self.pull, self._team = pull, team
        self._due = due(run, steps)

    def before(self, step: Step) -> None:
        """Set the anchor if that is due before a step.

        Raises:
            MtdnnError: the run from which this one starts does not have what it was trained on.
        """
        anchor = self._run.training.anchor
        if self.pull and anchor and step.step in self._due:
            self.pull.hold(self._fisher(anchor, self.pull.model, step) if anchor.corpus else None)

    def _fisher(self, anchor: Anchor, model: MultiTaskModel, step: Step) -> list[torch.Tensor]:
        """The Fisher information of the encoder on the anchor's corpus, before a step."""
        corpus, device = anchor.corpus or "", next(model.parameters()).device
        if anchor.to == "phase_start":
            features = self._features[corpus]
        else:
            pulled = {name for name, w in model.encoder.named_parameters() if w.requires_grad}
            model, features = _starting_run(Layout.of_run(self._run_dir), self._run, corpus)
            for name, weight in model.encoder.named_parameters():
                weight.requires_grad_(name in pulled)
        name, training = f"{self._run.seed}/{step.step}", self._run.training
        return fisher_information(model.to(device), corpus, features, training, self._team, name)


def due(run: RunSettings, steps: Sequence[Step]) -> set[int]:
    """Return the numbers of the steps before which a run's anchor is set."""
    anchor, first = run.training.anchor, dict[int, int]()
    for step in steps:
        first.setdefault(step.phase, step.step)
    phases = anchored_phases(anchor, phases_of_run(run)) if anchor else []
    return {first[phase] for phase in phases if phase in first}


def _starting_run(layout: Layout, run: RunSettings, corpus: str) -> tuple[MultiTaskModel, Features]:
    """The trained model of the run from which a run starts, and its features of a corpus."""
    assert run.start is not None, "config.anchors checks it"
    folder = RunFolder(layout.run(run.start))
    model, theirs = load_trained(folder.model)
    if model.adapters:  # the anchor has those of the target, added to the encoder's own weights
        model.encoder, model.pooler = model.network(theirs.target)
        model.adapters = []
    place = layout.features(theirs.encoder_name, theirs.features_variant, corpus)
    recorded = read_product(folder.description)["corpora"].get(corpus)
    if read_product(place / FEATURES)["corpus_digest"] != recorded:
        raise MtdnnError(
            f"{place}: prepared from another version of {corpus} than {run.start.path} was "
            "trained on; train that run again"
        )
    only = theirs.model_copy(update={"corpora": {corpus: theirs.corpora[corpus]}})
    return model, training_features(layout, only)[corpus]
