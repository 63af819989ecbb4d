"""AdamW (Loshchilov & Hutter 2019) by torch's fused kernel.

By hand because importing `torch.optim` loads torch's compiler: 3 s per job on a slow core, a tenth of a small training.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

EPS = 1e-8


class State(NamedTuple):
    """What is known of a weight's gradients."""

    step: Tensor  # (), how many there have been
    exp_avg: Tensor  # running averages of them and of their squares, of the weight's shape
    exp_avg_sq: Tensor


class AdamW:
    """Adam with decoupled weight decay; without decay it is Adam."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, betas: tuple[float, float]) -> None:
        """Prepares for weights in float32, at a learning rate `lr` of zero.

        Args:
            groups: of weights, the `params` of each, with their `weight_decay` where they decay.
            betas: of the averages of the gradient and of its square.
        """
        self.betas = betas
        self.param_groups: list[dict[str, Any]] = [
            {"lr": 0.0, "weight_decay": 0.0} | group | {"params": list(group["params"])} for group in groups
        ]
        self._states: dict[nn.Parameter, State] = {}

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
            steps, means, squares = (list(kind) for kind in zip(*map(self._known, weights), strict=True))
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

    def _known(self, weight: nn.Parameter) -> State:
        if weight not in self._states:
            count = torch.zeros((), device=weight.device)
            self._states[weight] = State(count, torch.zeros_like(weight), torch.zeros_like(weight))
        return self._states[weight]

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for weight in self._weights:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, by the weights' numbers, as torch's optimizers do."""
        weights = enumerate(self._weights)
        return {"state": {n: self._states[weight]._asdict() for n, weight in weights if weight in self._states}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there; the tensors are on the weights' device."""
        weights = self._weights
        self._states = {weights[number]: State(**known) for number, known in state["state"].items()}
