"""The linear probe: linear classifiers on pooled features, trained as MAE's: BatchNorm without affine, LARS."""

from __future__ import annotations

import torch
from torch import Tensor

from ldae.measures.measure import Encoded
from ldae.measures.rates import Lars, RateSearch, batch_norm


class Heads:
    """H linear classifiers on one normalised input, differing in their learning rates and trained independently."""

    def __init__(self, width: int, classes: int, rates: Tensor, generator: torch.Generator) -> None:
        """Starts all heads from the same weights, on the device of the generator and of the peak `rates` (H,)."""
        device = rates.device
        initial = 0.01 * torch.empty(width, 1, classes, device=device).normal_(generator=generator)
        self.weight = initial.expand(width, len(rates), classes).clone()
        self.bias = torch.zeros(len(rates), classes, device=device)
        self.optimizer = Lars((self.weight, self.bias), rates)
        self.mean, self.variance = torch.zeros(width, device=device), torch.ones(width, device=device)

    def step(self, features: Tensor, labels: Tensor, share: float) -> None:
        """Trains every head on a batch (n, F) with labels (n,), at `share` of its peak rate."""
        n = len(features)
        x = batch_norm(features, self.mean, self.variance, training=True)
        gradient = self._logits(x).softmax(-1)  # of the cross-entropy: softmax - one-hot
        gradient[torch.arange(n, device=labels.device), :, labels] -= 1
        gradient /= n
        self.optimizer.step([(x.T @ gradient.flatten(1)).view_as(self.weight), gradient.sum(0)], share)

    def predict(self, features: Tensor) -> Tensor:
        """The class (n, H) that each head gives to features (n, F)."""
        return self._logits(batch_norm(features, self.mean, self.variance, training=False)).argmax(-1)

    def _logits(self, x: Tensor) -> Tensor:
        return (x @ self.weight.flatten(1)).view(len(x), *self.bias.shape) + self.bias


class Linear(RateSearch):
    """The accuracy of a linear classifier on the mean of the tokens (paper, App. A)."""

    classifiers = Heads

    def inputs(self, images: Encoded) -> Tensor:
        """The pooled features (n, F)."""
        return images.features


MEASURE = Linear
