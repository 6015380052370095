"""Adamax with decoupled weight decay, and the linear learning-rate schedule."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, wraps
from typing import Any

import torch
from torch import nn

from mtdnn.config.settings import TrainingSettings
from mtdnn.errors import printable
from mtdnn.model.fast import fast

# Numbers of each of the four kinds (weights, gradients, moments): 2 MiB together.
PORTION = 1 << 17
# A GPU does the update of so many numbers in one pass, compiled: ten times less memory moves.
MANY = 1 << 20


class DecoupledAdamax(torch.optim.Optimizer):
    """Adamax (Kingma & Ba 2015, algorithm 2) with decay applied to the weights themselves.

    A step of a parameter p with gradient g, moments m and u, at its t-th step:

        m ← β1·m + (1−β1)·g
        u ← max(β2·u, |g| + eps)
        p ← p − lr·(m / ((1−β1^t)·u) + decay·p)

    With decay 0 this is `torch.optim.Adamax`. A parameter without a gradient (a head whose
    corpus was not drawn) is left alone: no decay, and its t does not advance.

    Args:
        groups: parameter groups; each may set its own `weight_decay`.
        lr: learning rate.
        betas: β1 and β2.
        eps: keeps the quotient finite.
        legacy: as MT-DNN's release of March 2019: no bias correction, and eps added to
            the denominator a second time.
    """

    def __init__(
        self,
        groups: Iterable[dict],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        legacy: bool = False,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "legacy": legacy}
        super().__init__(groups, defaults)
        self._due: list[_Due] = []
        self._factors: torch.Tensor | None = None
        device = self.param_groups[0]["params"][0].device
        if device.type == "cuda":
            self.keep_factors_on(device)

    def keep_factors_on(self, device: torch.device) -> None:
        """Let what changes from step to step (rate, decay) lie on the device from now on.

        So `apply` can be compiled and recorded: it finds new numbers at the same place.
        """
        count = sum(len(group["params"]) for group in self.param_groups)
        self._factors = torch.empty(count, 2, device=device)

    def step(self, scale: torch.Tensor | float = 1.0) -> None:
        """Update every parameter that has a gradient; the gradients are overwritten.

        Args:
            scale: multiplies every gradient first; clipping comes for nothing that way.
        """
        self.advance(
            p for group in self.param_groups for p in group["params"] if p.grad is not None
        )
        self.apply(scale)

    def advance(self, parameters: Iterable[nn.Parameter]) -> None:
        """Begin a step of `parameters`: what the host knows of it, and a device must be told."""
        chosen = set(parameters)
        self._due = []
        for group in self.param_groups:
            # Heads that are drawn less often count their own steps.
            by_age: dict[int, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter in chosen:
                    state = self.state[parameter]
                    if not state:
                        state["step"] = 0
                        state["exp_avg"] = torch.zeros_like(parameter)
                        state["exp_inf"] = torch.zeros_like(parameter)
                    state["step"] += 1
                    by_age.setdefault(state["step"], []).append(parameter)
            for age, same in by_age.items():
                correction = 1.0 if group["legacy"] else 1 - group["betas"][0] ** age
                decay = group["lr"] * group["weight_decay"]
                kept = 1 - decay if group["weight_decay"] else None
                self._due.append(_Due(group, same, kept, group["lr"] / correction))
        if self._factors is not None:
            numbers = torch.tensor([[due.kept or 1.0, due.rate] for due in self._due])
            if self._factors.device.type == "cuda":
                numbers = numbers.pin_memory()
            self._factors[: len(numbers)].copy_(numbers, non_blocking=True)
            for number, due in enumerate(self._due):
                due.rate = self._factors[number, 1]
                if due.kept is not None:
                    due.kept = self._factors[number, 0]

    @torch.no_grad()
    def apply(self, scale: torch.Tensor | float = 1.0) -> None:
        """The update of the step that `advance` began: arithmetic of the device alone."""
        for due in self._due:
            sparse = [p for p in due.parameters if p.grad.is_sparse]
            dense = [p for p in due.parameters if not p.grad.is_sparse]
            for parameter in sparse:
                self._update_rows(due, parameter, scale)
            if dense:
                four = (
                    dense,
                    [p.grad for p in dense],
                    [self.state[p]["exp_avg"] for p in dense],
                    [self.state[p]["exp_inf"] for p in dense],
                )
                for portion in _portions(*four):
                    due.update(scale, *portion)

    @property
    def structure(self) -> tuple[int, ...]:
        """How the parameters of the present step are put together; where it is the same,
        `apply` does the same with other numbers."""
        return tuple(len(due.parameters) for due in self._due)

    def _update_rows(
        self, due: "_Due", parameter: torch.Tensor, scale: torch.Tensor | float
    ) -> None:
        """The update of a matrix whose gradient is given by rows, in portions.

        A row that never had a gradient has no momentum: it decays and does not move.
        """
        state, gradient = self.state[parameter], parameter.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        state["rows"] = torch.cat([state.get("rows", rows[:0]), rows]).unique()
        if due.kept is not None:
            parameter.mul_(due.kept)
        moved = replace(due, kept=None)
        matrices = (parameter, state["exp_avg"], state["exp_inf"])
        for part in state["rows"].split(max(1, PORTION // parameter[0].numel())):
            weights, average, norm = pieces = [matrix[part] for matrix in matrices]
            here = (rows >= part[0]) & (rows <= part[-1])
            drawn = torch.zeros_like(weights)
            drawn[torch.searchsorted(part, rows[here])] = values[here]
            moved.update(scale, [weights], [drawn], [average], [norm])
            for matrix, piece in zip(matrices, pieces, strict=True):
                matrix[part] = piece


@dataclass
class _Due:
    """Parameters of one group and one age, and the numbers of their present step.

    Attributes:
        kept: share of the weights that decay leaves; absent where nothing decays.
        rate: learning rate, bias correction included. Both are tensors where the numbers of a
            step lie on the device.
    """

    group: dict
    parameters: list[nn.Parameter]
    kept: torch.Tensor | float | None
    rate: torch.Tensor | float

    def update(self, scale: torch.Tensor | float, *lists: list[torch.Tensor]) -> None:
        """One step of some tensors: weights, gradients, and the two moments."""
        beta1, beta2 = self.group["betas"]
        options = (beta1, beta2, self.group["eps"], self.group["legacy"])
        many = lists[0][0].device.type == "cuda" and sum(map(torch.numel, lists[0])) >= MANY
        update = compiled(_update) if many and fast("compile") else _update
        update(*lists, scale, self.kept, self.rate, *options)


def _update(
    parameters: list[torch.Tensor],
    gradients: list[torch.Tensor],
    averages: list[torch.Tensor],
    norms: list[torch.Tensor],
    scale: torch.Tensor | float,
    kept: torch.Tensor | float | None,
    rate: torch.Tensor | float,
    beta1: float,
    beta2: float,
    eps: float,
    legacy: bool,
) -> None:
    """The arithmetic of Adamax on all `parameters` at once."""
    torch._foreach_mul_(gradients, scale)
    torch._foreach_lerp_(averages, gradients, 1 - beta1)
    # The gradients are used up: their memory serves for the magnitudes.
    torch._foreach_abs_(gradients)
    torch._foreach_add_(gradients, eps)
    torch._foreach_mul_(norms, beta2)
    torch._foreach_maximum_(norms, gradients)
    if kept is not None:
        torch._foreach_mul_(parameters, kept)
    denominators = torch._foreach_add(norms, eps) if legacy else norms
    if isinstance(rate, torch.Tensor):
        moves = torch._foreach_div(averages, denominators)
        torch._foreach_mul_(moves, rate)
        torch._foreach_sub_(parameters, moves)
    else:
        torch._foreach_addcdiv_(parameters, averages, denominators, -rate)


@cache
def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """A function that torch compiles at its first call; where it cannot, the function itself."""
    fused, usable = torch.compile(function, dynamic=False), True

    @wraps(function)
    def call(*arguments: Any) -> None:
        nonlocal usable
        if usable:
            try:
                return fused(*arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # compilers raise whatever they like, before any work
                usable = False
                reason = printable(str(error), 200)
                print(f"mtdnn: goes on without torch.compile: {reason}", flush=True)
        return function(*arguments)

    return call


def _portions(*lists: list[torch.Tensor]) -> Iterator[list[list[torch.Tensor]]]:
    """Lists of like tensors, cut so that a CPU's cache holds what belongs together.

    The update reads and writes each number ten times; only the first time from memory. A GPU
    takes everything at once.
    """
    if lists[0][0].device.type != "cpu" or not fast("optimizer"):
        yield list(lists)
        return
    portion, numbers = [[] for _ in lists], 0
    for tensors in zip(*lists, strict=True):
        for pieces in zip(*(tensor.view(-1).split(PORTION) for tensor in tensors), strict=True):
            if numbers + len(pieces[0]) > PORTION:
                yield portion
                portion, numbers = [[] for _ in lists], 0
            for some, piece in zip(portion, pieces, strict=True):
                some.append(piece)
            numbers += len(pieces[0])
    yield portion


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """Global norm of all gradients; sparse ones are brought to one entry for each row."""
    values = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        elif parameter.grad is not None:
            values.append(parameter.grad)
    return nn.utils.get_total_norm(values, foreach=True)


def clip_scale(norm: torch.Tensor, limit: float) -> torch.Tensor:
    """What scales gradients of global norm `norm` down to `limit`, as torch's clipping does."""
    return (limit / (norm + 1e-6)).clamp(max=1.0)


def optimizer_for(model: nn.Module, settings: TrainingSettings) -> DecoupledAdamax:
    """The optimiser of a run; decay spares biases and LayerNorm, unless it is the legacy one."""
    legacy = settings.optimizer == "adamax_legacy"
    spared = {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, nn.LayerNorm) or name == "bias"
    }
    # Encoder, pooler and each head: a step trains all of such a part, or nothing of it.
    parts: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[: 2 if name.startswith("heads.") else 1])
        decays = legacy or parameter not in spared
        parts.setdefault((part, decays), []).append(parameter)
    groups = [
        {"params": some, "weight_decay": settings.weight_decay if decays else 0.0}
        for (_, decays), some in parts.items()
    ]
    return DecoupledAdamax(
        groups,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=1e-6 if legacy else 1e-8,
        legacy=legacy,
    )


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """The rate of a step (from 0) of `steps`: a linear rise, then linear decay to 0."""
    warmup = int(settings.warmup * steps)
    if step < warmup:
        return settings.learning_rate * step / max(1, warmup)
    return settings.learning_rate * max(0.0, (steps - step) / max(1, steps - warmup))
