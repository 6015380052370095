"""Adamax with decoupled weight decay, AdamW, Adam, and the linear learning-rate schedule."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, wraps
from typing import Any, ClassVar

import torch
from torch import nn

from mtdnn.config.settings import TrainingSettings
from mtdnn.errors import printable
from mtdnn.model.fast import fast

# Elements of each of the four kinds (weights, gradients, two moments): 2 MiB together.
PORTION_ELEMENTS = 1 << 17
# From this size on a GPU runs the compiled update, one pass, which moves ten times less memory.
MIN_COMPILED_ELEMENTS = 1 << 20
# Numbers of a step that change from step to step, at most.
MAX_NUMBERS = 3


class MomentOptimizer(torch.optim.Optimizer):
    """What the optimizers share: two moments of each parameter, which counts steps of its own.

    A parameter without a gradient (a head whose corpus was not drawn) stays unchanged: no decay,
    and its t does not advance. A subclass says how the moments move the weights.

    Attributes:
        second: name of the second moment in the state of a parameter; the first is `exp_avg`.
        copies: copies of some parameters, which a step writes, too. Where a copy has a gradient,
            it is its parameter's.
    """

    second: ClassVar[str]
    copies: Mapping[nn.Parameter, nn.Parameter]

    def __init__(self, groups: Iterable[dict[str, Any]], defaults: dict[str, Any]):
        super().__init__(groups, {"weight_decay": 0.0, **defaults})
        self.copies = {}
        self._updates: list[_Update] = []
        self._factors: torch.Tensor | None = None
        device = self.param_groups[0]["params"][0].device
        if device.type == "cuda":
            self.keep_factors_on(device)

    def _update(self, group: dict[str, Any], parameters: list[nn.Parameter], age: int) -> "_Update":
        """Return the `age`-th step of some parameters of a group."""
        raise NotImplementedError

    def keep_factors_on(self, device: torch.device) -> None:
        """Keep the numbers that change from step to step (rate, decay) on the device.

        `apply` can then be compiled and recorded: it finds new numbers in the same memory.
        """
        count = sum(len(group["params"]) for group in self.param_groups)
        self._factors = torch.empty(count, MAX_NUMBERS, device=device)

    def forget(self) -> None:
        """Forget all moments, as if no step had been taken; recorded steps find them in place."""
        for state in self.state.values():
            if "step" in state:
                state["step"] = 0
                state["exp_avg"].zero_()
                state[self.second].zero_()
                state.pop("rows", None)

    def step(self, scale: torch.Tensor | float = 1.0) -> None:  # type: ignore[override] # no closure
        """Update every parameter that has a gradient; the gradients may be overwritten.

        Args:
            scale: factor of every gradient, a scalar; clipping costs nothing this way.
        """
        every = (p for group in self.param_groups for p in group["params"])
        self.advance(p for p in every if self._gradient(p) is not None)
        self.apply(scale)

    def advance(self, parameters: Iterable[nn.Parameter]) -> None:
        """Begin a step of `parameters`: count it, and send its numbers to the device."""
        chosen = set(parameters)
        self._updates = []
        for group in self.param_groups:
            # Each parameter counts its own steps: the heads are drawn at different rates.
            by_age: dict[int, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter in chosen:
                    state = self.state[parameter]
                    if "step" not in state:
                        state["step"] = 0
                        state["exp_avg"] = torch.zeros_like(parameter)
                        state[self.second] = torch.zeros_like(parameter)
                    state["step"] += 1
                    by_age.setdefault(state["step"], []).append(parameter)
            self._updates += [self._update(group, same, age) for age, same in by_age.items()]
        if self._factors is not None:
            rows = [[1.0 if n is None else n for n in update.numbers] for update in self._updates]
            numbers = torch.tensor([row + [1.0] * (MAX_NUMBERS - len(row)) for row in rows])
            if self._factors.device.type == "cuda":
                numbers = numbers.pin_memory()
            self._factors[: len(numbers)].copy_(numbers, non_blocking=True)
            for row, update in enumerate(self._updates):
                update.numbers = [
                    None if number is None else self._factors[row, column]
                    for column, number in enumerate(update.numbers)
                ]

    @torch.no_grad()
    def apply(self, scale: torch.Tensor | float = 1.0) -> None:
        """Carry out the step that `advance` began: arithmetic on the device alone."""
        for update in self._updates:
            kinds: dict[bool, list[tuple[nn.Parameter, torch.Tensor]]] = {}
            for parameter in update.parameters:
                gradient = self._gradient(parameter)
                assert gradient is not None  # the caller knows
                if gradient.is_sparse and not update.moves_all:
                    self._update_rows(update, parameter, gradient.coalesce(), scale)
                else:
                    dense = gradient.to_dense() if gradient.is_sparse else gradient
                    kinds.setdefault(parameter in self.copies, []).append((parameter, dense))
            for has_copies, chosen in kinds.items():
                weights, gradients = ([*each] for each in zip(*chosen, strict=True))
                averages = [self.state[p]["exp_avg"] for p in weights]
                seconds = [self.state[p][self.second] for p in weights]
                lists = [weights, gradients, averages, seconds]
                lists += [[self.copies[p] for p in weights]] if has_copies else []
                for portion in _portions(*lists):
                    update.apply(scale, *portion)

    def _gradient(self, parameter: nn.Parameter) -> torch.Tensor | None:
        copy = self.copies.get(parameter)
        return parameter.grad if copy is None or copy.grad is None else copy.grad

    @property
    def structure(self) -> tuple[int, ...]:
        """Sizes of the current step's parts; steps of equal structure differ only in numbers."""
        return tuple(len(update.parameters) for update in self._updates)

    def _update_rows(
        self,
        update: "_Update",
        parameter: nn.Parameter,
        gradient: torch.Tensor,
        scale: torch.Tensor | float,
    ) -> None:
        """Update a matrix whose gradient is sparse, rows only, in portions.

        A row that never had a gradient has no momentum: it decays and does not move.
        """
        state = self.state[parameter]
        rows, values = gradient.indices()[0], gradient.values()
        state["rows"] = torch.unique(torch.cat([state.get("rows", rows[:0]), rows]))
        kept, *others = update.numbers
        if kept is not None:
            parameter.mul_(kept)
        without_decay = replace(update, numbers=[None, *others])
        matrices = (parameter, state["exp_avg"], state[self.second])
        for part in state["rows"].split(max(1, PORTION_ELEMENTS // parameter[0].numel())):
            weights, average, second = pieces = [matrix[part] for matrix in matrices]
            here = (rows >= part[0]) & (rows <= part[-1])
            gradients = torch.zeros_like(weights)
            gradients[torch.searchsorted(part, rows[here])] = values[here]
            without_decay.apply(scale, [weights], [gradients], [average], [second])
            for matrix, piece in zip(matrices, pieces, strict=True):
                matrix[part] = piece


class DecoupledAdamax(MomentOptimizer):
    """Adamax (Kingma & Ba 2015, algorithm 2) with decay applied to the weights themselves.

    The paper's "Adamax with weight decay fix". The t-th step of a parameter p with gradient g and
    moments m and u:

        m ← β1·m + (1−β1)·g
        u ← max(β2·u, |g| + eps)
        p ← p − lr·(m / ((1−β1^t)·u) + decay·p)

    With decay 0 this is `torch.optim.Adamax`.

    Args:
        groups: parameter groups; each may set its own `weight_decay`.
        lr: learning rate.
        betas: β1 and β2.
        eps: keeps the quotient finite.
        legacy: as in MT-DNN's release of March 2019: no bias correction, and eps is added to
            the denominator a second time.
    """

    second = "exp_inf"

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        legacy: bool = False,
    ):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "legacy": legacy})

    def _update(self, group: dict[str, Any], parameters: list[nn.Parameter], age: int) -> "_Update":
        beta1, beta2 = group["betas"]
        correction = 1.0 if group["legacy"] else 1 - beta1**age
        return _Update(
            rule=adamax,
            parameters=parameters,
            numbers=[_kept(group), group["lr"] / correction],
            options=(beta1, beta2, group["eps"], group["legacy"]),
        )


class Adam(MomentOptimizer):
    """Adam (Kingma & Ba 2015, algorithm 1), or AdamW (Loshchilov & Hutter 2019, algorithm 2).

    The t-th step of a parameter p with gradient g and moments m and v:

        g ← g + decay·p                                     (Adam)
        p ← p − lr·decay·p                                  (AdamW)
        m ← β1·m + (1−β1)·g
        v ← β2·v + (1−β2)·g²
        p ← p − lr·(m / (1−β1^t)) / (√v / √(1−β2^t) + eps)

    On a CPU this is `torch.optim.Adam` or `torch.optim.AdamW`, bit for bit.

    Args:
        groups: parameter groups; each may set its own `weight_decay`.
        lr: learning rate.
        betas: β1 and β2.
        eps: keeps the quotient finite.
        decoupled: AdamW, whose decay is not part of the gradient.
    """

    second = "exp_avg_sq"

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decoupled: bool = True,
    ):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "decoupled": decoupled})

    def _update(self, group: dict[str, Any], parameters: list[nn.Parameter], age: int) -> "_Update":
        beta1, beta2 = group["betas"]
        coupled = 0.0 if group["decoupled"] else group["weight_decay"]
        return _Update(
            rule=adam,
            parameters=parameters,
            numbers=[
                _kept(group) if group["decoupled"] else None,
                group["lr"] / (1 - beta1**age),
                (1 - beta2**age) ** 0.5,
            ],
            options=(beta1, beta2, group["eps"], coupled),
            moves_all=coupled != 0,
        )


def _kept(group: dict[str, Any]) -> float | None:
    """The factor of the weights that decoupled decay leaves; None where nothing decays."""
    return 1 - group["lr"] * group["weight_decay"] if group["weight_decay"] else None


@dataclass
class _Update:
    """One step of the parameters in a group that have taken the same number of steps.

    Attributes:
        rule: `adamax` or `adam`.
        parameters: the parameters.
        numbers: what changes from step to step: the factor of the weights that decay leaves (None
            where nothing decays), the learning rate divided by the bias correction, and what else
            the rule needs. Scalar tensors where the numbers of a step are on the device.
        options: the other arguments of the rule, which do not change.
        moves_all: whether also rows without a gradient move: decay is part of the gradient.
    """

    rule: Callable[..., None]
    parameters: list[nn.Parameter]
    numbers: Sequence[torch.Tensor | float | None]
    options: tuple[float, ...]
    moves_all: bool = False

    def apply(
        self,
        scale: torch.Tensor | float,
        weights: list[torch.Tensor],
        gradients: list[torch.Tensor],
        averages: list[torch.Tensor],
        seconds: list[torch.Tensor],
        copies: Sequence[torch.Tensor] = (),
    ) -> None:
        """Update some weights, their two moments, and their copies if any, in place."""
        on_gpu = weights[0].device.type == "cuda"
        many = copies or sum(map(torch.numel, weights)) >= MIN_COMPILED_ELEMENTS
        compiles = on_gpu and many and fast("compile")
        update = compiled(self.rule) if compiles else _in_place(self.rule)
        numbers = (*self.numbers, *self.options)
        update(weights, gradients, averages, seconds, copies, scale, *numbers)


def adamax(
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
    """Carry out a step of Adamax on all `parameters` at once."""
    # Many parameters because it is one kernel: torch compiles it with every number as an argument.
    torch._foreach_mul_(gradients, scale)
    torch._foreach_lerp_(averages, gradients, 1 - beta1)
    # The gradients are no longer needed: their memory is reused for the magnitudes.
    torch._foreach_abs_(gradients)
    torch._foreach_add_(gradients, eps)
    torch._foreach_mul_(norms, beta2)
    torch._foreach_maximum_(norms, gradients)
    if kept is not None:
        torch._foreach_mul_(parameters, kept)
    denominators = list(torch._foreach_add(norms, eps)) if legacy else norms
    _move(parameters, averages, denominators, rate)


def adam(
    parameters: list[torch.Tensor],
    gradients: list[torch.Tensor],
    averages: list[torch.Tensor],
    squares: list[torch.Tensor],
    scale: torch.Tensor | float,
    kept: torch.Tensor | float | None,
    rate: torch.Tensor | float,
    root: torch.Tensor | float,
    beta1: float,
    beta2: float,
    eps: float,
    coupled: float,
) -> None:
    """Carry out a step of Adam or AdamW on all `parameters` at once."""
    # Many parameters because it is one kernel, as above.
    torch._foreach_mul_(gradients, scale)
    if coupled:
        torch._foreach_add_(gradients, parameters, alpha=coupled)
    if kept is not None:
        torch._foreach_mul_(parameters, kept)
    torch._foreach_lerp_(averages, gradients, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
    # The gradients are no longer needed: their memory is reused for the denominators.
    torch._foreach_copy_(gradients, squares)
    torch._foreach_sqrt_(gradients)
    torch._foreach_div_(gradients, root)
    torch._foreach_add_(gradients, eps)
    _move(parameters, averages, gradients, rate)


def _move(
    parameters: list[torch.Tensor],
    averages: list[torch.Tensor],
    denominators: list[torch.Tensor],
    rate: torch.Tensor | float,
) -> None:
    """Subtract the quotients of two lists, times the rate, from the parameters."""
    if isinstance(rate, torch.Tensor):
        moves = torch._foreach_div(averages, denominators)
        torch._foreach_mul_(moves, rate)
        torch._foreach_sub_(parameters, moves)
    else:
        torch._foreach_addcdiv_(parameters, averages, denominators, -rate)


def _in_place(rule: Callable[..., None]) -> Callable[..., None]:
    """Return a rule that takes gradients in any precision, and writes copies of the weights."""

    def update(
        parameters: list[torch.Tensor],
        gradients: list[torch.Tensor],
        averages: list[torch.Tensor],
        seconds: list[torch.Tensor],
        copies: list[torch.Tensor],
        *numbers: Any,
    ) -> None:
        if any(each.dtype != torch.float32 for each in gradients):
            exact = [torch.empty_like(each, dtype=torch.float32) for each in gradients]
            torch._foreach_copy_(exact, gradients)
            gradients = exact
        rule(parameters, gradients, averages, seconds, *numbers)
        if copies:
            torch._foreach_copy_(copies, parameters)

    return update


def _keeping_gradients(rule: Callable[..., None]) -> Callable[..., None]:
    """Return a rule that leaves the gradients as they are, so that compiled it never writes them.

    Of what it changes in place a compiler has to write the last state, used or not.
    """

    def update(parameters: list[torch.Tensor], gradients: list[torch.Tensor], *others: Any) -> None:
        averages, seconds, copies, scale, *numbers = others
        scaled = list(torch._foreach_mul([each.float() for each in gradients], scale))
        _in_place(rule)(parameters, scaled, averages, seconds, copies, 1.0, *numbers)

    return update


@cache
def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Return a rule that torch compiles at its first call, or runs as it is if it cannot.

    It takes gradients in any precision, and a list of copies of the weights after the moments.
    """
    fused, usable = torch.compile(_keeping_gradients(function), dynamic=False), True

    @wraps(function)
    def call(*arguments: Any) -> None:
        nonlocal usable
        if usable:
            try:
                return fused(*arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # compilers raise all kinds of exceptions, before any work
                usable = False
                reason = printable(str(error), 200)
                print(f"mtdnn: continuing without torch.compile: {reason}", flush=True)
        return _in_place(function)(*arguments)

    return call


def _portions(*lists: list[torch.Tensor]) -> Iterator[list[list[torch.Tensor]]]:
    """Cut lists of equally shaped tensors into portions that fit a CPU's cache together.

    The update reads and writes each number ten times, with portions only once from memory. A GPU
    takes everything at once.
    """
    if lists[0][0].device.type != "cpu" or not fast("optimizer"):
        yield list(lists)
        return
    portion: list[list[torch.Tensor]] = [[] for _ in lists]
    elements = 0
    for tensors in zip(*lists, strict=True):
        for pieces in zip(
            *(tensor.view(-1).split(PORTION_ELEMENTS) for tensor in tensors), strict=True
        ):
            if elements + len(pieces[0]) > PORTION_ELEMENTS:
                yield portion
                portion, elements = [[] for _ in lists], 0
            for column, piece in zip(portion, pieces, strict=True):
                column.append(piece)
            elements += len(pieces[0])
    yield portion


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """Return the global norm of all gradients, a scalar; sparse ones are coalesced in place."""
    values: list[torch.Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        elif parameter.grad is not None:
            values.append(parameter.grad)
    halves = [value for value in values if value.dtype == torch.bfloat16]
    norm = nn.utils.get_total_norm([v for v in values if v.dtype != torch.bfloat16], foreach=True)
    if halves:  # whose norms would be in bf16, too
        norms = torch._foreach_norm(halves, 2, dtype=torch.float32)
        norm = torch.linalg.vector_norm(torch.stack([norm, *norms]))
    return norm


def clip_scale(norm: torch.Tensor, limit: float) -> torch.Tensor:
    """Return the scale that brings gradients of global norm `norm` to at most `limit`.

    The same as torch's `clip_grad_norm_`; a scalar tensor.
    """
    return (limit / (norm + 1e-6)).clamp(max=1.0)


def optimizer_for(model: nn.Module, settings: TrainingSettings) -> MomentOptimizer:
    """Return the optimizer of a run.

    As in BERT, weights decay except biases and LayerNorm; in MT-DNN's release (`adamax_legacy`)
    all of them do. Frozen weights are left out. A group of parameters says whether it is one of a
    `head`.
    """
    legacy = settings.optimizer == "adamax_legacy"
    spared = {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, nn.LayerNorm) or name.startswith("bias")
    }
    # Encoder, pooler and each head are groups: a step trains all of a group or nothing of it, but
    # for an encoder in which corpora have adapters of their own.
    parts: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = ".".join(name.split(".")[: 2 if name.startswith("heads.") else 1])
        decays = legacy or parameter not in spared
        parts.setdefault((part, decays), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "head": part.startswith("heads."),
        }
        for (part, decays), parameters in parts.items()
    ]
    rate, betas = settings.learning_rate, (settings.beta1, settings.beta2)
    if settings.optimizer in ("adam", "adamw"):
        return Adam(groups, rate, betas, decoupled=settings.optimizer == "adamw")
    return DecoupledAdamax(groups, rate, betas, eps=1e-6 if legacy else 1e-8, legacy=legacy)


def learning_rate(
    step: int, steps: int, settings: TrainingSettings, peak: float | None = None
) -> float:
    """Return the learning rate of a step: linear warm-up, then linear decay to 0 (the paper).

    Args:
        step: number of the step, from 0.
        steps: number of steps of the whole run.
        settings: the peak rate and the share of the steps that warm up.
        peak: another peak rate.
    """
    warmup, peak = int(settings.warmup * steps), peak or settings.learning_rate
    if step < warmup:
        return peak * step / max(1, warmup)
    return peak * max(0.0, (steps - step) / max(1, steps - warmup))
