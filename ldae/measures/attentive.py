"""The attentive probe: several learned queries pool the tokens before a linear classifier.

It follows efficient probing (Psomas et al., "Attention, Please!", arXiv:2506.10178): each query attends to the tokens
themselves, without a projection of keys, and pools its own part of the projected values. A BatchNorm without affine
and the linear layer of the linear probe follow, trained by the same recipe. Tokens pass through a LayerNorm without
affine first, so that attention does not depend on the scale of an encoder's output.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ldae.measures.measure import Encoded
from ldae.measures.rates import Lars, RateSearch, batch_norm

QUERIES = 8  # at most; each pools an equal part of the values


class AttentiveHeads:
    """H attentive classifiers on one input, differing in their learning rates; they do not interact."""

    def __init__(self, width: int, classes: int, rates: Tensor, generator: torch.Generator) -> None:
        """Starts all heads from the same weights, on the device of the generator and of the peak `rates` (H,)."""
        num, device = len(rates), rates.device

        def normal(deviation: float, *shape: int) -> Tensor:
            initial = deviation * torch.empty(shape, device=device).normal_(generator=generator)
            return initial[:, None].expand(shape[0], num, shape[1]).clone().requires_grad_()

        self.matrices = {
            "queries": normal(0.02, width, math.gcd(width, QUERIES)),  # (F, H, Q)
            "values": normal(1 / math.sqrt(3 * width), width, width),  # (F, H, F), deviates as in PyTorch's `Linear`
            "weight": normal(0.01, width, classes),  # (F, H, C)
        }
        self.bias = torch.zeros(num, classes, device=device, requires_grad=True)
        self.optimizer = Lars((*self.matrices.values(), self.bias), rates)
        self.mean, self.variance = torch.zeros(num, width, device=device), torch.ones(num, width, device=device)

    def step(self, tokens: Tensor, labels: Tensor, share: float) -> None:
        """Trains every head on a batch (n, T, F) with labels (n,), at `share` of its peak rate."""
        with torch.enable_grad():
            logits = self._logits(tokens, training=True)
            targets = labels[:, None].expand(logits.shape[:2])
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / len(tokens)
            gradients = torch.autograd.grad(loss, self.optimizer.parameters)
        self.optimizer.step(gradients, share)

    @torch.no_grad()
    def predict(self, tokens: Tensor) -> Tensor:
        """The class (n, H) that each head gives to tokens (n, T, F)."""
        return self._logits(tokens).argmax(-1)

    def _logits(self, tokens: Tensor, *, training: bool = False) -> Tensor:
        """The logits (n, H, C) of tokens (n, T, F)."""
        x = batch_norm(self._pool(tokens), self.mean, self.variance, training=training)
        return torch.einsum("nhf,fhc->nhc", x, self.matrices["weight"]) + self.bias

    def _pool(self, tokens: Tensor) -> Tensor:
        """The pooled values (n, H, F) of tokens (n, T, F)."""
        width, num, queries = self.matrices["queries"].shape
        tokens = F.layer_norm(tokens, (width,))
        scores = tokens @ self.matrices["queries"].flatten(1) / math.sqrt(width)  # (n, T, H Q)
        attended = scores.softmax(1).transpose(1, 2) @ tokens  # (n, H Q, F), what each query attends to
        attended = attended.unflatten(1, (num, queries))
        values = self.matrices["values"].unflatten(2, (queries, -1))  # (F, H, Q, F / Q)
        return torch.einsum("nhqf,fhqd->nhqd", attended, values).flatten(2)


class Attentive(RateSearch):
    """The accuracy of a classifier that pools the tokens with learned queries."""

    classifiers = AttentiveHeads

    def inputs(self, images: Encoded) -> Tensor:
        """The tokens (n, T, F)."""
        assert images.tokens is not None
        return images.tokens


MEASURE = Attentive
