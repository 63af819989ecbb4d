"""One optimizer step: rate, augmented batch, losses, gradients, optimizer, averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ldae.runtime import ranks
from ldae.runtime.randomness import Randomness
from ldae.training.optimizer import AdamW

BETAS = (0.9, 0.95)  # of AdamW; the paper names none, RCG's training "with the scheme of l-DAE" uses these
Prepare = Callable[[Tensor, Tensor, Randomness], tuple[Any, ...]]


def learning_rate(step: int, *, total: int, peak: float, warmup: float) -> float:
    """The rate of a step: linear warm-up over a share `warmup` of all steps, then half a cosine to zero (App. A)."""
    warm = warmup * total
    if step < warm:  # the first step has a rate above 0, the last one of the warm-up the peak
        return peak * (step + 1) / (math.floor(warm) + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def set_rate(optimizer: AdamW, rate: float) -> None:
    """Sets the learning rate of all weights."""
    for group in optimizer.param_groups:
        group["lr"] = rate


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
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
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
