"""Adamax with decoupled weight decay, and the linear learning-rate schedule."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from mtdnn.fast import fast
from mtdnn.settings import TrainingSettings

# Numbers of each of the four kinds (weights, gradients, moments): 2 MiB together.
PORTION = 1 << 17


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

    @torch.no_grad()
    def step(self, scale: torch.Tensor | float = 1.0) -> None:
        """Update every parameter that has a gradient; the gradients are overwritten.

        Args:
            scale: multiplies every gradient first; clipping comes for nothing that way.
        """
        for group in self.param_groups:
            # Heads that are drawn less often count their own steps.
            by_age: dict[int, list[torch.Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if not state:
                        state["step"] = 0
                        state["exp_avg"] = torch.zeros_like(parameter)
                        state["exp_inf"] = torch.zeros_like(parameter)
                    state["step"] += 1
                    if parameter.grad.is_sparse:
                        self._update_rows(group, parameter, scale)
                    else:
                        by_age.setdefault(state["step"], []).append(parameter)
            for age, parameters in by_age.items():
                four = (
                    parameters,
                    [p.grad for p in parameters],
                    [self.state[p]["exp_avg"] for p in parameters],
                    [self.state[p]["exp_inf"] for p in parameters],
                )
                for portion in _portions(*four):
                    self._update(group, age, scale, *portion)

    def _update(
        self,
        group: dict,
        age: int,
        scale: torch.Tensor | float,
        parameters: list[torch.Tensor],
        gradients: list[torch.Tensor],
        averages: list[torch.Tensor],
        norms: list[torch.Tensor],
    ) -> None:
        """The same arithmetic on all `parameters` at once, each at its `age`-th step."""
        beta1, beta2 = group["betas"]
        torch._foreach_mul_(gradients, scale)
        torch._foreach_lerp_(averages, gradients, 1 - beta1)
        # The gradients are used up: their memory serves for the magnitudes.
        torch._foreach_abs_(gradients)
        torch._foreach_add_(gradients, group["eps"])
        torch._foreach_mul_(norms, beta2)
        torch._foreach_maximum_(norms, gradients)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        if group["legacy"]:
            denominators, rate = torch._foreach_add(norms, group["eps"]), group["lr"]
        else:
            denominators, rate = norms, group["lr"] / (1 - beta1**age)
        torch._foreach_addcdiv_(parameters, averages, denominators, -rate)

    def _update_rows(
        self, group: dict, parameter: torch.Tensor, scale: torch.Tensor | float
    ) -> None:
        """The update of a matrix whose gradient is given by rows, in portions.

        A row that never had a gradient has no momentum: it decays and does not move.
        """
        state, gradient = self.state[parameter], parameter.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        state["rows"] = torch.cat([state.get("rows", rows[:0]), rows]).unique()
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        matrices = (parameter, state["exp_avg"], state["exp_inf"])
        for part in state["rows"].split(max(1, PORTION // parameter[0].numel())):
            weights, average, norm = pieces = [matrix[part] for matrix in matrices]
            here = (rows >= part[0]) & (rows <= part[-1])
            drawn = torch.zeros_like(weights)
            drawn[torch.searchsorted(part, rows[here])] = values[here]
            decayed = {**group, "weight_decay": 0}
            self._update(decayed, state["step"], scale, [weights], [drawn], [average], [norm])
            for matrix, piece in zip(matrices, pieces, strict=True):
                matrix[part] = piece


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
    decayed = [p for p in model.parameters() if legacy or p not in spared]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}]
    if not legacy:
        groups.append({"params": [p for p in model.parameters() if p in spared]})
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
