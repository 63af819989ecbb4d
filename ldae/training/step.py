"""One optimizer step: rate, augmented batch, losses, gradients, AdamW, averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ldae.runtime import ranks
from ldae.runtime.randomness import Randomness

BETAS = (0.9, 0.95)  # of AdamW; the paper names none, RCG's training "with the scheme of l-DAE" uses these
EPS = 1e-8  # of AdamW
Prepare = Callable[[Tensor, Tensor, Randomness], tuple[Any, ...]]


class AdamState(NamedTuple):
    """The state of a weight."""

    step: Tensor  # (), the number of steps
    exp_avg: Tensor  # running averages of the gradient and of its square, of the weight's shape
    exp_avg_sq: Tensor


class AdamW:
    """AdamW (Loshchilov & Hutter 2019) by torch's fused kernel; without decay it is Adam.

    By hand because importing `torch.optim` loads torch's compiler: 3 s per job on a slow core, a tenth of a small
    training.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, betas: tuple[float, float]) -> None:
        """Prepares groups of float32 weights, `params` with their `weight_decay`, at a learning rate `lr` of zero."""
        self.betas = betas
        self.param_groups: list[dict[str, Any]] = [
            {"lr": 0.0, "weight_decay": 0.0} | group | {"params": list(group["params"])} for group in groups
        ]
        self._states: dict[nn.Parameter, AdamState] = {}

    @property
    def _weights(self) -> list[nn.Parameter]:
        return [weight for group in self.param_groups for weight in group["params"]]

    @torch.no_grad()
    def step(self) -> None:
        """Moves every weight that has a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            steps, means, squares = (list(kind) for kind in zip(*map(self._state, weights), strict=True))
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                weights,
                [weight.grad for weight in weights],
                means,
                squares,
                max_exp_avg_sqs=[],
                state_steps=steps,
                lr=group["lr"],
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=group["weight_decay"],
                eps=EPS,
                amsgrad=False,
                maximize=False,
            )

    def _state(self, weight: nn.Parameter) -> AdamState:
        if weight not in self._states:
            count = torch.zeros((), device=weight.device)
            self._states[weight] = AdamState(count, torch.zeros_like(weight), torch.zeros_like(weight))
        return self._states[weight]

    def zero_grad(self) -> None:
        """Removes the gradients."""
        for weight in self._weights:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The states by the weights' numbers, as torch's optimizers have them."""
        weights = enumerate(self._weights)
        return {"state": {n: self._states[weight]._asdict() for n, weight in weights if weight in self._states}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads a state whose tensors are on the weights' device."""
        weights = self._weights
        self._states = {weights[number]: AdamState(**saved) for number, saved in state["state"].items()}


def learning_rate(step: int, *, total: int, peak: float, warmup: float) -> float:
    """The rate of a step: linear warm-up over a share `warmup` of all steps, then half a cosine to zero (App. A)."""
    warm = warmup * total
    if step < warm:  # the first step has a rate above 0, the last one of the warm-up the peak
        return peak * (step + 1) / (math.floor(warm) + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def set_rate(optimizer: AdamW, rate: float) -> None:
    """Sets the learning rate of all weights; a group with `lr_scale` has that share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: matrices decay, biases and norms do not (MAE)."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


class WeightEMA:
    """An exponential moving average of a network's weights, whose decay is warmed up: min(decay, (1 + s)/(10 + s))."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._ours: list[Tensor] = list(self.network.parameters())
        self._theirs: list[Tensor] = list(network.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the weights after `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._ours, self._theirs, 1 - decay)


def gradient_norm(network: nn.Module) -> Tensor:
    """The Euclidean norm of all gradients, as a scalar tensor."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return torch.stack(torch._foreach_norm(gradients)).norm()


class LossTask:
    """The training of a network with one optimizer on a model's mean loss; `update` is the whole step."""

    def __init__(
        self,
        model: nn.Module,
        network: nn.Module,
        prepare: Prepare,
        *,
        groups: list[dict[str, Any]],
        peak: float,
        warmup: float,
        betas: tuple[float, float] = BETAS,
        ema: float | None = None,
        micro_batch: int = 0,
        before: Callable[[float], None] | None = None,
    ) -> None:
        """Prepares the optimizer and the averaged weights.

        Args:
            model: maps the results of `prepare` to the loss (n,) of each image.
            network: the part of `model` that is trained, averaged and stored in checkpoints.
            prepare: augments stored inputs (n, ...) with labels (n,), and draws what the model needs; it returns
                tensors (n, ...) and named tuples of them.
            groups: parameter groups of AdamW; a group with `lr_scale` has that share of the learning rate.
            peak: the largest learning rate.
            warmup: the share of the steps in which the rate rises.
            betas: of AdamW.
            ema: decay of the averaged weights; None for no average.
            micro_batch: the most images per forward pass; 0 for the whole batch. Numbers change by rounding alone.
            before: called before each step with the share of the training that is over.
        """
        self.prepare, self.before, self.network = prepare, before, network
        self.peak, self.warmup, self.micro_batch = peak, warmup, micro_batch
        self.parallel = ranks.parallel(model)
        self.optimizer = AdamW(groups, betas=betas)
        self.optimizers = [self.optimizer]
        self.average = WeightEMA(network, ema) if ema is not None else None
        self.module = nn.ModuleDict({"network": network})
        if self.average is not None:
            self.module["average"] = self.average.network

    def update(
        self, inputs: Tensor, labels: Tensor, randomness: Randomness, *, step: int, total: int
    ) -> dict[str, Tensor | float]:
        """Takes step number `step` of `total` on this rank's part of a batch; returns loss, gradient norm and rate."""
        num = len(inputs)
        batch = self.prepare(inputs, labels, randomness)
        rate = learning_rate(step, total=total, peak=self.peak, warmup=self.warmup)
        set_rate(self.optimizer, rate)
        if self.before is not None:
            self.before(step / total)
        loss = torch.zeros((), device=inputs.device)
        size = self.micro_batch or num
        for start in range(0, num, size):
            micro = slice(start, start + size)
            with ranks.no_sync(self.parallel, micro.stop < num):
                part = self.parallel(*(_images(tensors, micro) for tensors in batch)).sum() / num
                part.backward()
            loss += part.detach()
        norm = gradient_norm(self.network)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(step)
        return {"loss": loss, "gradient_norm": norm, "rate": rate}


def _images(tensors: Any, part: slice) -> Any:
    """Some images of a tensor, or of each tensor in a named tuple."""
    if isinstance(tensors, Tensor):
        return tensors[part]
    return type(tensors)(*(tensor[part] for tensor in cast("tuple[Tensor, ...]", tensors)))
