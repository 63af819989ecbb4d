"""Linear classifiers on features, trained as MAE's probe: BatchNorm without affine, LARS, many rates in one pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOMENTUM, TRUST, BATCH_NORM_EPS, BATCH_NORM_MOMENTUM = 0.9, 0.001, 1e-6, 0.1  # MAE's linear probe


def lars_step(weight: Tensor, gradient: Tensor, momentum: Tensor, rates: Tensor) -> None:
    """One step of LARS without weight decay for H heads at once, in place.

    Each head's gradient is scaled by trust * |weight| / |gradient|, as MAE and MoCo v3 do for matrices.

    Args:
        weight, gradient, momentum: (F, H, C).
        rates: the heads' learning rates (H,).
    """
    size, slope = weight.norm(dim=(0, 2)), gradient.norm(dim=(0, 2))
    ratio = torch.where((size > 0) & (slope > 0), TRUST * size / slope, 1.0)
    momentum.mul_(MOMENTUM).add_(gradient * ratio[:, None])
    weight.sub_(rates[:, None] * momentum)


def head_rate(progress: float, *, epochs: int, warmup: int) -> float:
    """The share of the peak rate at `progress` epochs: linear warm-up, then half a cosine to zero (MAE's probe).

    Args:
        progress: epochs that are over, with the part of the present one.
        epochs, warmup: how many there are, and how many of them warm up.
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (epochs - warmup)))


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


class Neighbours:
    """A weighted vote of the most similar training features, as in DINO's k-NN, which come part by part.

    Similarity is the cosine, a vote weighs exp(similarity / 0.07).
    """

    def __init__(self, queries: Tensor, neighbours: int) -> None:
        """Seeks the neighbours of `queries` (n, F); so many vote."""
        self.neighbours = neighbours
        self._queries = torch.nn.functional.normalize(queries, dim=1)
        self._similarity = queries.new_zeros(len(queries), 0)  # (n, k) of the nearest so far
        self._labels = queries.new_zeros((len(queries), 0), dtype=torch.long)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Takes more of the training features (N, F), with labels (N,), into account."""
        features = torch.nn.functional.normalize(features, dim=1)
        found = []
        chunks = (parts.split(1024) for parts in (self._queries, self._similarity, self._labels))
        for queries, similarity, names in zip(*chunks, strict=True):
            nearest, places = (queries @ features.T).topk(min(self.neighbours, len(features)), dim=1)
            similarity, names = torch.cat([similarity, nearest], 1), torch.cat([names, labels[places]], 1)
            best, order = similarity.topk(min(self.neighbours, similarity.shape[1]), dim=1)
            found.append((best, names.gather(1, order)))
        self._similarity, self._labels = (torch.cat(parts) for parts in zip(*found, strict=True))

    def vote(self, classes: int) -> Tensor:
        """The class (n,) of each query, of so many."""
        votes = torch.zeros(len(self._queries), classes, device=self._queries.device)
        votes.scatter_add_(1, self._labels, (self._similarity / 0.07).exp())
        return votes.argmax(1)
