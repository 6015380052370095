"""How the corpora of a run pull at its weights: cosines of their gradients, and their dev losses.

Measured while a run is trained, between its steps, without any effect on it: gradients are asked
for and never stored at the weights, batches come from a random stream of their own, and dropout is
off, so that no random number is drawn from torch. A cosine below 0 is what Yu et al. (2020) call a
conflict; Du et al. (2018) take the cosine with the target's gradient for how useful a corpus is.

The scale of a loss does not matter to a cosine, so factors of losses are left out. Without dropout
the gradients are those of the model that is evaluated in the end, and no noise of masks hides that
two of them agree.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations, pairwise
from math import isfinite, sqrt
from typing import Any

import numpy as np
import torch

from mtdnn.config.layout import Layout
from mtdnn.config.settings import RunSettings, TrainingSettings
from mtdnn.data.features import Features
from mtdnn.model.batches import PackedBatch, batch_of
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.training.budget import Load, Plan, plan
from mtdnn.training.log import WHOLE
from mtdnn.training.schedule import Step, length
from mtdnn.training.stepper import parts_of, precision
from mtdnn.training.team import Team

PIECE = 1 << 16
"""Number of weights whose inner products are summed in single precision."""

_LAYER = re.compile(r"(?:^|\.)(?:layers?|albert_layer_groups)\.(\d+)\.")


def _loads(
    run: RunSettings, features: Mapping[str, Features], steps: Sequence[Step]
) -> dict[str, Load]:
    counts = dict.fromkeys(run.corpora, 0)
    for step in steps:
        counts[step.corpus] += 1
    return {
        name: Load(
            counts[name],
            run.training.batch_size_of(name),
            float(each.lengths.sum()) / max(len(each), 1),
        )
        for name, each in features.items()
    }


# --- during training -------------------------------------------------------------------------


class Diagnostics:
    """Measures gradients and dev losses between the steps of a run; only its leader does.

    Args:
        layout: where the features are.
        run: the run's settings.
        features: the training features of each corpus.
        steps: its whole schedule.
        model: the model; left as it is.
        team: the processes that train the run together.
    """

    def __init__(
        self,
        layout: Layout,
        run: RunSettings,
        features: Mapping[str, Features],
        steps: Sequence[Step],
        model: MultiTaskModel,
        team: Team,
    ):
        self._run, self._features, self._model = run, features, model
        # A process that trains with others usually holds a part of a batch.
        self._parts = run.training.accumulation * team.size
        ends = [step.step for step, after in pairwise(steps) if _epoch(step) != _epoch(after)]
        ends += [steps[-1].step] if steps else []
        settings = run.training.interference
        self.plan = plan(settings, _loads(run, features, steps), len(ends))
        count = self.plan.measurements if team.leads and _trained(model) else 0
        middles = (np.arange(count) + 0.5) * length(steps) / max(count, 1)
        self._compared = set(middles.astype(int).tolist())
        self._ends = set(ends) if team.leads and self.plan.dev_items else set()
        self._dev = _dev_features(layout, run) if self._ends else {}
        if self._compared or self._ends:
            # Of joint steps there are fewer than batches, which the plan counts.
            done = replace(self.plan, measurements=len(self._compared))
            print(f"mtdnn: {_said(done, len(run.corpora))}", flush=True)

    def after(self, step: Step) -> dict[str, Any]:
        """Return what is measured after a step: `gradients` and `dev_loss`, or nothing.

        Both go into the step's line of the training log:

            "gradients": {"norm": {corpus: norm}, "cosine": {part: {"a/b": cosine}}}
            "dev_loss": {corpus: mean loss}

        Corpora are in the order of the mixture, but the target is first. Parts are the whole
        `encoder`, its `embeddings`, `layer 1`, … and what is `other`. A cosine is None where one of
        the gradients is 0, and so is what is not finite. Both are left out if the memory is too
        small.
        """
        measured: dict[str, Any] = {}
        if step.step not in self._compared | self._ends:
            return measured
        try:
            with _without_dropout(self._model):
                if step.step in self._compared:
                    measured["gradients"] = self._gradients(step.step)
                if step.step in self._ends:
                    measured["dev_loss"] = self._dev_losses()
        except torch.OutOfMemoryError:
            self._compared, self._ends = set(), set()
            print(
                "mtdnn: the GPU's memory is too small for the gradients of all corpora at once; "
                "training continues without comparing them (training.interference)",
                flush=True,
            )
        return measured

    def _gradients(self, step: int) -> dict[str, Any]:
        run, found = self._run, {}
        settings = run.training.interference
        for name in (run.target, *(name for name in run.corpora if name != run.target)):
            features = self._features[name]
            # Names of corpora have no slash, so no stream of the schedule is the same.
            random = np.random.default_rng([run.seed, step, *f"gradients/{name}".encode()])
            size = min(run.training.batch_size_of(name), len(features))
            batches = [
                batch_of(features, random.choice(len(features), size, replace=False))
                for _ in range(settings.batches)
            ]
            found[name] = gradients(self._model, name, batches, run.training, self._parts)
        return compare(found, parts(self._model))

    def _dev_losses(self) -> dict[str, float | None]:
        count, training = self.plan.dev_items, self._run.training
        losses = {}
        for name, features in self._dev.items():
            # The same items in all runs; a smaller number of them is a part of a larger one.
            order = np.random.default_rng(list(name.encode())).permutation(len(features))
            losses[name] = mean_loss(self._model, name, features, order[:count], training)
        return losses


def _epoch(step: Step) -> tuple[int, int]:
    return step.phase, step.epoch


def _dev_features(layout: Layout, run: RunSettings) -> dict[str, Features]:
    """The dev features of each corpus; a run that is trained elsewhere may lack them."""
    places = {
        name: layout.features(run.encoder_name, run.features_variant, name) / "dev.arrow"
        for name in (run.target, *(name for name in run.corpora if name != run.target))
    }
    found = {
        name: Features(place, run.corpora[name].family)
        for name, place in places.items()
        if place.exists()
    }
    return {name: features for name, features in found.items() if len(features)}


def _said(planned: Plan, corpora: int) -> str:
    """What is measured and what it costs, in a line."""
    count, items = planned.measurements, planned.dev_items
    times = f"{count} times" if count > 1 else "once"
    compared = [f"compares the gradients of {corpora} corpora {times}"] if count else []
    some = "1 dev item" if items == 1 else f"{items} dev items"
    losses = [f"measures the loss of {some} per corpus after each epoch"]
    said = " and ".join([*compared, *(losses if items else [])])
    return f"{said}: about {100 * planned.share:.1f} % of the training time"


@contextmanager
def _without_dropout(model: MultiTaskModel) -> Iterator[None]:
    """Turn dropout off; layers that recompute their activations to save memory still do."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for module, training in modes.items():
        if getattr(module, "gradient_checkpointing", False):
            module.training = training
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


# --- gradients -------------------------------------------------------------------------------


def gradients(
    model: MultiTaskModel,
    corpus: str,
    batches: Sequence[PackedBatch],
    settings: TrainingSettings,
    count: int = 1,
) -> list[torch.Tensor]:
    """Return the gradient of the mean loss over batches at each weight of the encoder that trains.

    That of word embeddings may be sparse. The weights' own `grad` is neither read nor written.

    Args:
        model: the model.
        corpus: the corpus of the batches.
        batches: the batches, on the host.
        settings: the precision.
        count: number of parts into which each batch is cut to save memory.
    """
    weights = _trained(model)
    device = next(model.parameters()).device
    total: list[torch.Tensor] = []
    for batch in batches:
        for part, share in parts_of(batch, count):
            with precision(settings, device):
                loss = model.loss(corpus, part.to(device)) * (share / len(batches))
            found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
            total = [a + b for a, b in zip(total, found, strict=True)] if total else list(found)
    return [each.coalesce() if each.is_sparse else each for each in total]


def parts(model: MultiTaskModel) -> list[str]:
    """Return the part of the encoder to which each weight of `gradients` belongs."""
    return [part_of(name) for name in _trained(model)]


def part_of(name: str) -> str:
    """Return the part of an encoder, `embeddings`, `layer 1`, … or `other`, that has a weight."""
    if layer := _LAYER.search(name):
        return f"layer {int(layer[1]) + 1}"
    return "embeddings" if "embedding" in name else "other"


def _trained(model: MultiTaskModel) -> dict[str, torch.nn.Parameter]:
    named = model.encoder.named_parameters()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def compare(
    found: Mapping[str, Sequence[torch.Tensor]], belongs: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the norms of gradients, and the cosine of each two, by part of the encoder.

    Args:
        found: each corpus's gradient, weight by weight.
        belongs: the part to which each weight belongs.

    Returns:
        `norm` of each corpus and `cosine` of each pair in each part, as in `Diagnostics.after`.
    """
    names = list(found)
    sums: dict[str, torch.Tensor] = {}
    for part, *each in zip(belongs, *found.values(), strict=True):
        products = _inner_products(each)
        for name in (WHOLE, part):
            sums[name] = sums[name] + products if name in sums else products
    cosines, norms = {}, {}
    for part, matrix in zip(sums, torch.stack(list(sums.values())).tolist(), strict=True):
        product = {
            (a, b): value
            for a, row in zip(names, matrix, strict=True)
            for b, value in zip(names, row, strict=True)
        }
        if part == WHOLE:
            norms = {name: _finite(sqrt(product[name, name])) for name in names}
        cosines[part] = {
            f"{a}/{b}": _cosine(product[a, b], product[a, a] * product[b, b])
            for a, b in combinations(names, 2)
        }
    return {"norm": norms, "cosine": cosines}


def _inner_products(each: Sequence[torch.Tensor]) -> torch.Tensor:
    """The inner products of the corpora's gradients at one weight, (corpora, corpora) fp64.

    A piece that fits a CPU's cache at a time. Pieces are added in double precision: a matrix may
    have tens of millions of weights.
    """
    total = torch.zeros(len(each), len(each), dtype=torch.float64, device=each[0].device)
    pieces = (torch.split(gradient.flatten(), PIECE) for gradient in _dense(each))
    for together in zip(*pieces, strict=True):
        rows = torch.stack(together)
        total += rows @ rows.T
    return total


def _dense(each: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients at one weight as dense tensors; of sparse ones, the rows that any of them has."""
    if not all(gradient.is_sparse for gradient in each):
        return [gradient.to_dense() for gradient in each]
    rows = torch.unique(torch.cat([gradient.indices()[0] for gradient in each]))
    dense = []
    for gradient in each:
        values = gradient.values()
        place = torch.searchsorted(rows, gradient.indices()[0])
        dense.append(values.new_zeros(len(rows), *values.shape[1:]).index_copy(0, place, values))
    return dense


def _cosine(product: float, squares: float) -> float | None:
    if not squares > 0 or not isfinite(squares):
        return None
    return max(-1.0, min(1.0, product / sqrt(squares)))


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


# --- losses ----------------------------------------------------------------------------------


@torch.no_grad()
def mean_loss(
    model: MultiTaskModel,
    corpus: str,
    features: Features,
    items: np.ndarray,
    settings: TrainingSettings,
) -> float | None:
    """Return the mean loss of items; None if it is not finite.

    Args:
        model: the model.
        corpus: the corpus of the items.
        features: features with the items.
        items: (N,) the items.
        settings: batch size and precision.
    """
    device, size = next(model.parameters()).device, settings.batch_size_of(corpus)
    total, terms = torch.zeros((), dtype=torch.float64, device=device), 0
    for first in range(0, len(items), size):
        batch = batch_of(features, items[first : first + size])
        with precision(settings, device):
            total += model.loss(corpus, batch.to(device)).double() * batch.terms
        terms += batch.terms
    return _finite(float(total) / max(terms, 1))
