"""The linear probe: linear classifiers on pooled features, trained as MAE's: BatchNorm without affine, LARS."""

from __future__ import annotations

import torch
from torch import Tensor

from ldae.measures.measure import Encoded, Task
from ldae.measures.rates import MOMENTUM, RateSearch, lars_step

BATCH_NORM_EPS, BATCH_NORM_MOMENTUM = 1e-6, 0.1  # MAE's linear probe


class Heads:
    """H linear classifiers on one normalised input, differing in their learning rates; they do not interact."""

    def __init__(self, features: int, classes: int, rates: Tensor, generator: torch.Generator) -> None:
        """Starts all heads from the same weights.

        Args:
            features: their number F.
            classes: their number C.
            rates: the peak learning rates (H,), on the device to work on.
            generator: of the initial weights, on the same device.
        """
        device = rates.device
        self.rates = rates
        shape = (features, len(rates), classes)
        initial = 0.01 * torch.empty(features, 1, classes, device=device).normal_(generator=generator)
        self.weight = initial.expand(shape).clone()
        self.bias = torch.zeros(shape[1:], device=device)
        self.weight_momentum, self.bias_momentum = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.mean, self.variance = torch.zeros(features, device=device), torch.ones(features, device=device)

    def step(self, features: Tensor, labels: Tensor, share: float) -> None:
        """Trains every head on a batch (n, F) with labels (n,), at `share` of its peak rate.

        The gradient of the cross-entropy is written out: softmax - one-hot.
        """
        n = len(features)
        mean = features.mean(0)
        centred = features - mean
        variance = centred.square().mean(0)
        self.mean.lerp_(mean, BATCH_NORM_MOMENTUM)
        self.variance.lerp_(variance * (n / max(n - 1, 1)), BATCH_NORM_MOMENTUM)
        x = centred * (variance + BATCH_NORM_EPS).rsqrt()
        error = self._logits(x).softmax(-1)
        error[torch.arange(n, device=labels.device), :, labels] -= 1
        error /= n
        lars_step(self.weight, (x.T @ error.flatten(1)).view_as(self.weight), self.weight_momentum, share * self.rates)
        self.bias_momentum.mul_(MOMENTUM).add_(error.sum(0))
        self.bias.sub_((share * self.rates)[:, None] * self.bias_momentum)

    def predict(self, features: Tensor) -> Tensor:
        """The class (n, H) that each head gives to features (n, F)."""
        x = (features - self.mean) * (self.variance + BATCH_NORM_EPS).rsqrt()
        return self._logits(x).argmax(-1)

    def _logits(self, x: Tensor) -> Tensor:
        return (x @ self.weight.flatten(1)).view(len(x), *self.bias.shape) + self.bias


class Linear(RateSearch):
    """The accuracy of a linear classifier on the mean of the tokens (paper, App. A)."""

    def __init__(self, task: Task, example: Encoded) -> None:
        width = example.features.shape[1]
        super().__init__(task, *(Heads(width, task.classes, task.rates, task.generator()) for _ in range(2)))

    def inputs(self, images: Encoded) -> Tensor:
        """The pooled features (n, F)."""
        return images.features


MEASURE = Linear
