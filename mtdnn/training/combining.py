"""Joint steps: a batch of each of several corpora, whose gradients become one.

Each corpus has an ordinary backward pass. Of weights that several corpora use, the K gradients are
combined: their inner products, a K×K matrix, give a weight for each, and the gradient is the
weighted sum. torchjd turns inner products into weights; it needs no other part of the gradients.
A weight that one corpus alone uses, such as a head's, has the gradient of that corpus as it is, so
a step with one corpus is an ordinary step.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from mtdnn.config.joint import missing_packages
from mtdnn.config.phases import phases_of_run
from mtdnn.config.settings import (
    CAGrad,
    GradVac,
    Mean,
    NashMTL,
    PCGrad,
    RunSettings,
    TrainingSettings,
    UPGrad,
)
from mtdnn.errors import MtdnnError, printable
from mtdnn.model.batches import PackedBatch
from mtdnn.model.multitask import MultiTaskModel
from mtdnn.model.optimizer import MomentOptimizer
from mtdnn.training.policies import shares
from mtdnn.training.schedule import supplies_of
from mtdnn.training.stepper import Stepper


class Combiner(nn.Module):
    """Turns the inner products of the gradients of some corpora into their weights.

    What a method remembers is in buffers on the CPU, one entry for each corpus of the run, so
    that checkpoints keep it and phases with other corpora leave it. Random orders come from torch's
    random state.

    Args:
        training: the run's settings; `combine` is the method.
        corpora: the corpora of the run.

    Raises:
        MtdnnError: a package that the method needs is missing.
    """

    cosines: torch.Tensor
    bargain: torch.Tensor

    def __init__(self, training: TrainingSettings, corpora: Sequence[str]):
        super().__init__()
        if missing := missing_packages(training):
            raise MtdnnError(missing)
        self._combination = combination = training.combine
        self._places = {name: place for place, name in enumerate(corpora)}
        count = len(corpora)
        if isinstance(combination, GradVac):
            self.register_buffer("cosines", torch.zeros(count, count, dtype=torch.float64))
        if isinstance(combination, NashMTL):
            self.register_buffer("bargain", torch.ones(count, dtype=torch.float64))

    def weights(self, corpora: Sequence[str], products: torch.Tensor) -> torch.Tensor:
        """Return the weight of the gradient of each corpus, (K,) fp64.

        Args:
            corpora: K corpora of the run.
            products: (K, K) fp64, the inner products of their gradients.

        Raises:
            MtdnnError: a solver fails.
        """
        squares, count = products.diagonal(), len(corpora)
        # Where a gradient is zero nothing conflicts; one that is not finite ends training soon.
        usable = bool(products.isfinite().all() and (squares > 0).all())
        if isinstance(self._combination, Mean) or not usable:
            return torch.full((count,), 1 / count, dtype=torch.float64)
        places = torch.tensor([self._places[name] for name in corpora])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of solvers, about their speed
                return self._weights(products, places)
        except Exception as error:  # solvers raise all kinds of exceptions
            reason = printable(str(error), 200)
            raise MtdnnError(
                f"training.combine: {self._combination.kind} found no weights for the gradients of "
                f"{', '.join(corpora)}: {reason}; the last checkpoint is kept; use another one"
            ) from None

    def _weights(self, products: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        from torchjd import aggregation

        # These weights do not depend on the common length of the gradients, but torchjd takes
        # short ones for zero.
        scaled = products / products.diagonal().sum()
        match self._combination:
            case PCGrad():
                return aggregation.PCGradWeighting()(scaled)
            case CAGrad(c=c):
                return aggregation.CAGradWeighting(c=c)(scaled)
            case UPGrad():
                return aggregation.UPGradWeighting(projector=_projector())(scaled)
            case GradVac(beta=beta):
                return self._vaccinated(beta, scaled, places)
            case NashMTL(rounds=rounds):
                return self._bargained(rounds, products, places)
        raise AssertionError(self._combination)

    def _vaccinated(
        self, beta: float, products: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        """The weights of GradVac, whose moving averages are those of pairs of corpora."""
        from torchjd.aggregation import GradVacWeighting

        weighting = GradVacWeighting(beta=beta)
        with torch.random.fork_rng(devices=[]):
            weighting(products)  # makes the buffer into which the averages are loaded
        square = (places[:, None], places[None])
        weighting.load_state_dict({"_phi_t": self.cosines[square]})
        weights = weighting(products)
        self.cosines[square] = weighting.state_dict()["_phi_t"]
        return weights

    def _bargained(self, rounds: int, products: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """The weights of Nash-MTL, whose search begins with those of the step before.

        Each gradient is scaled to length 1, which its weight in the bargain undoes, so that the
        search begins near its end. If it fails, torchjd keeps the weights with which it began.
        """
        from torchjd.aggregation import NashMTL as Bargain

        lengths = products.diagonal().sqrt()
        values, vectors = torch.linalg.eigh(products / lengths / lengths[:, None])
        # Rows with the same inner products as the gradients have.
        rows = vectors * values.clamp(min=0).sqrt()
        # Not limited in their sum, which training.clip_norm does.
        weighting = Bargain(len(places), max_norm=0, optim_niter=rounds).weighting
        weighting.prvs_alpha = self.bargain[places].numpy()
        weights = weighting(rows)
        self.bargain[places] = weights
        return weights / lengths


@cache
def _projector() -> Any:
    """Return what projects gradients for UPGrad.

    torchjd's own calls quadprog, which now and then ends the process with a segmentation fault.
    """
    from scipy.optimize import nnls
    from torchjd.linalg import DualConeProjector

    class Projector(DualConeProjector):
        """Finds the smallest v'Gv with v ≥ u as non-negative least squares in v - u."""

        def __call__(self, U: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
            values, vectors = torch.linalg.eigh(G)
            root = (vectors * values.clamp(min=0).sqrt()).T.numpy()  # root' root = G
            added = [nnls(root, -root @ row)[0] for row in U.numpy()]
            return U + torch.as_tensor(np.stack(added), dtype=U.dtype)

    return Projector()


# --- gradients -------------------------------------------------------------------------------

Gradients = dict[nn.Parameter, torch.Tensor]


def take_gradients(model: nn.Module) -> Gradients:
    """Return the gradients of a model's parameters that have one, and leave these without."""
    taken = {p: p.grad for p in model.parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return taken


def combine(gradients: Sequence[Gradients], weigh: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Set the gradient of every parameter from those of K corpora.

    Args:
        gradients: the gradients of each corpus.
        weigh: returns the weight of each, (K,), from their inner products over the parameters that
            several corpora have a gradient of, (K, K) fp64 on the CPU.
    """
    for own in gradients:
        for parameter, gradient in own.items():
            parameter.grad = gradient
    users = Counter(parameter for own in gradients for parameter in own)
    shared = [
        _Shared.of(parameter, [own.get(parameter) for own in gradients])
        for parameter, count in users.items()
        if count > 1
    ]
    if shared:
        weights = weigh(_products(shared, len(gradients))).tolist()
        for each in shared:
            each.parameter.grad = each.sum(weights)


@dataclass(frozen=True)
class _Shared:
    """The gradients of a parameter that several corpora use.

    Attributes:
        parameter: the parameter.
        parts: the gradient of each corpus, or None; of sparse ones the `rows` alone.
        rows: the rows of the parameter for which some corpus has a gradient; None if all.
    """

    parameter: nn.Parameter
    parts: list[torch.Tensor | None]
    rows: torch.Tensor | None = None

    @classmethod
    def of(cls, parameter: nn.Parameter, parts: list[torch.Tensor | None]) -> "_Shared":
        given = [part.coalesce() for part in parts if part is not None and part.is_sparse]
        if not given:
            return cls(parameter, parts)
        rows = torch.unique(torch.cat([part.indices()[0] for part in given]))
        dense: list[torch.Tensor | None] = []
        for part in parts:
            if part is None:
                dense.append(None)
                continue
            part = part.coalesce()
            values = part.values().new_zeros(len(rows), *parameter.shape[1:])
            values[torch.searchsorted(rows, part.indices()[0])] = part.values()
            dense.append(values)
        return cls(parameter, dense, rows)

    def sum(self, weights: Sequence[float]) -> torch.Tensor:
        """Return the weighted sum, sparse if the gradients are."""
        total = None
        for part, weight in zip(self.parts, weights, strict=True):
            if part is not None:
                total = part * weight if total is None else total.add_(part, alpha=weight)
        assert total is not None, "several corpora have a gradient"
        if self.rows is None:
            return total
        return torch.sparse_coo_tensor(
            self.rows[None], total, self.parameter.shape, is_coalesced=True, check_invariants=False
        )


def _products(shared: Sequence[_Shared], count: int) -> torch.Tensor:
    """The inner products of the gradients of `count` corpora, (count, count) fp64 on the CPU."""
    pairs = list(combinations_with_replacement(range(count), 2))
    values = []
    for one, other in pairs:
        found = [(each.parts[one], each.parts[other]) for each in shared]
        dots = [
            torch.dot(a.reshape(-1), b.reshape(-1))
            for a, b in found
            if a is not None and b is not None
        ]
        zero = torch.zeros((), dtype=torch.float64, device=shared[0].parameter.device)
        values.append(torch.stack(dots).double().sum() if dots else zero)
    products = torch.zeros(count, count, dtype=torch.float64)
    for (one, other), value in zip(pairs, torch.stack(values).tolist(), strict=True):
        products[one, other] = products[other, one] = value
    return products


# --- steps -----------------------------------------------------------------------------------


def share_factors(
    run: RunSettings, sizes: Mapping[str, int]
) -> Callable[[int, int], dict[str, float]]:
    """Return a function that gives the factor of each corpus's gradient in a joint step.

    Gradients count as often as the policy would draw their corpora: the factor is a corpus's share,
    divided by what it is if all have the same.

    Args:
        run: the run's settings.
        sizes: number of training items of each corpus.

    Returns:
        A function of the step's phase and epoch, both from 0.
    """
    phases, supplies = phases_of_run(run), supplies_of(run, sizes)

    @cache
    def factors(phase: int, epoch: int) -> dict[str, float]:
        share = shares(phases[phase], supplies, run.weight, epoch)
        return {name: len(share) * part for name, part in share.items()}

    return factors


class JointStepper(Stepper):
    """Takes joint steps, and ordinary ones between them, launching every kernel from Python.

    Args:
        model, optimizer: what is trained; changed in place.
        settings: accumulation, clipping and precision.
        combiner: gives the weights of the gradients.
        factors: returns the factor of each corpus's gradient, from a step's phase and epoch.
        loss_weights: factors of the losses of some corpora.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        optimizer: MomentOptimizer,
        settings: TrainingSettings,
        combiner: Combiner,
        factors: Callable[[int, int], Mapping[str, float]],
        loss_weights: Mapping[str, float] = MappingProxyType({}),
    ):
        device = next(model.parameters()).device
        super().__init__(model, optimizer, settings, device, None, loss_weights)
        self._combiner, self._factors = combiner, factors

    def take_together(
        self, batches: Mapping[str, PackedBatch], rate: float, phase: int, epoch: int
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Take one joint step.

        Args:
            batches: the batch of each corpus, as `prepare` returned it.
            rate: the learning rate.
            phase, epoch: those of the step, from 0.

        Returns:
            The mean loss of each batch, without its corpus's factor, and the global gradient norm
            before clipping, fp32 scalars on the device.
        """
        losses, gradients = [], []
        self.optimizer.zero_grad(set_to_none=True)
        for corpus, batch in batches.items():
            losses.append(self.backward(corpus, batch))
            gradients.append(take_gradients(self.model))
        by_corpus = self._factors(phase, epoch)
        factors = torch.tensor([by_corpus[name] for name in batches], dtype=torch.float64)

        def weigh(products: torch.Tensor) -> torch.Tensor:
            scaled = factors[:, None] * products * factors
            return factors * self._combiner.weights(list(batches), scaled)

        combine(gradients, weigh)
        return losses, self.update(rate)
